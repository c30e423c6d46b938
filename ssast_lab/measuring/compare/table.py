"""All upstreams on all tasks."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssast_lab.measuring.compare.lengths import seconds_of
from ssast_lab.measuring.compare.pages import write
from ssast_lab.measuring.compare.records import PROBED, CompareError, Comparison, Entry, with_differences
from ssast_lab.measuring.compare.rows import Worker, read_tasks

Path_ = str | os.PathLike[str]


def compare(
    upstreams: Sequence[str] | Mapping[str, str],
    tasks: Sequence[Path_],
    out: Path_,
    pooling: str = "mean",
    layer: int | str = "best",
    cache: Path_ | None = "runs/embeddings",
    seeds: Sequence[int] = (0,),
    fine_tune: str = "",
    epochs: int | None = None,
    baseline: str | None = None,
    download: bool = False,
    progress: bool = False,
) -> Comparison:
    """Runs upstreams over tasks and writes ``table.csv``, ``README.md``, ``comparison.json`` and a figure into ``out``.

    What cannot be had or done is a sentence in the table. What was done before is read from ``out/rows``.
    :class:`CompareError` where there is nothing to compare.

    Args:
        upstreams: names of upstreams (:func:`ssast_lab.measuring.upstreams.upstream`), each of which may be called otherwise in the
            table: ``ours=runs/pretrain``. With several seeds, ``scratch:NAME`` is drawn by each of them, and a name that holds ``{seed}`` is
            taken with each of them: ``runs/frame-{seed}``.
        tasks: labelled sets (:func:`ssast_lab.data.labelled.read_labelled`); one without folds is divided.
        out: the folder to write into.
        pooling: of the probe's embeddings: mean, max, cls or statistics.
        layer: that the probe reads, from 0, or "best".
        cache: the folder of the embeddings; None: they are not kept.
        seeds: of upstreams with random weights, and of fine-tuning.
        fine_tune: also fine-tunes every masked spectrogram model by this recipe, named without its patches: "small".
        epochs: of fine-tuning, instead of the recipe's.
        baseline: the upstream, as it is called in the table, that the others are compared with; None: each with itself
            from scratch, if that is among them, else with the first one from scratch.
        download: fetches the weights of wav2vec2-base or hubert-base when they are not on this machine.
        progress: shows how far it is.
    """
    pairs = list(upstreams.items() if isinstance(upstreams, Mapping) else map(_called, upstreams))
    names = dict(pairs)
    for called, name in pairs:
        if name != names[called]:
            raise CompareError(f"Both {name} and {names[called]} are called {called!r}: give each its own name.")
    if not names or not tasks or not seeds:
        raise CompareError("There is nothing to compare: name an upstream, a task and a seed at least.")
    if baseline is not None and baseline not in names:
        raise CompareError(f"The baseline {baseline!r} is not among the upstreams: {', '.join(names)}.")
    first = next((called for called, name in names.items() if name.startswith("scratch")), "")
    itself = {name.partition(":")[2]: called for called, name in names.items() if name.startswith("scratch")}
    baselines = {called: baseline or itself.get(name, first) for called, name in names.items()}
    out = Path(out)
    settings = {
        "pooling": pooling, "layer": layer, "seeds": list(seeds), "fine_tune": fine_tune, "epochs": epochs,
        "baseline": baseline, "download": download,
    }  # fmt: skip
    worker = Worker(out, pooling, layer, cache, fine_tune, epochs, download, progress)
    read = read_tasks(tasks)
    entries: list[Entry] = []
    for called, name in names.items():
        entries += worker.entries(called, name, read, list(dict.fromkeys(seeds)))
    compared = with_differences(entries, baselines)
    order = {task.name: place for place, task in enumerate(read)}
    compared.sort(key=lambda entry: (entry.method != PROBED, order[entry.task]))
    command = _command(names, tasks, out, settings)
    lengths = {task.name: seconds_of(task.tests.clips) for task in read if task.set is not None}
    comparison = Comparison(tuple(compared), baselines, settings, command, lengths)
    write(comparison, out)
    return comparison


def _called(text: str) -> tuple[str, str]:
    """(what it is called, its name) of "called=name", or of a name alone."""
    called, is_, name = text.partition("=")
    return (called, name) if is_ and not os.path.exists(text) else (text, text)


def _command(names: Mapping[str, str], tasks: Sequence[Path_], out: Path, settings: Mapping[str, Any]) -> str:
    """The command line of a comparison: what differs from the defaults."""
    words = [
        "ssast-lab",
        "compare",
        *(name if name == called else f"{called}={name}" for called, name in names.items()),
    ]
    words += ["--tasks", *(os.fspath(task) for task in tasks), "--out", os.fspath(out)]
    defaults = {"pooling": "mean", "layer": "best", "seeds": [0], "fine_tune": "", "epochs": None, "download": False}
    for name, default in defaults.items():
        value = settings[name]
        if value != default:
            flag = f"--{name.replace('_', '-')}"
            words += (
                [flag] if value is True else [flag, *(map(str, value) if isinstance(value, list) else [str(value)])]
            )
    if settings["baseline"] is not None:
        words += ["--baseline", settings["baseline"]]
    return shlex.join(words)
