"""The whole comparison: all upstreams on all tasks."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssast_lab.measuring.compare.lengths import seconds_of
from ssast_lab.measuring.compare.pages import write
from ssast_lab.measuring.compare.records import PROBED, CompareError, Comparison, with_differences
from ssast_lab.measuring.compare.rows import Rows, read_tasks

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
    """Measures upstreams on tasks and writes ``table.csv``, ``README.md``, ``comparison.json`` and a figure into ``out``.

    An upstream or task that fails gets a sentence in the table, and the rest goes on. What was measured before is read from
    ``out/rows``. :class:`CompareError` where there is nothing to compare.

    Args:
        upstreams: names of upstreams (:func:`ssast_lab.measuring.upstreams.upstream`). ``ours=runs/pretrain`` calls one "ours"
            in the table. With several seeds, ``scratch:NAME`` is initialised by each of them, and in ``runs/frame-{seed}``
            each of them is filled in.
        tasks: labelled sets (:func:`ssast_lab.data.labelled.read_labelled`); one without folds is divided.
        out: the folder to write into.
        pooling: of the probe's embeddings: mean, max, cls or statistics.
        layer: the layer to probe, from 0, or "best".
        cache: the folder of the embeddings; None: they are not kept.
        seeds: of upstreams with random weights, and of fine-tuning.
        fine_tune: also fine-tunes every masked spectrogram model by this recipe, named without -patch or -frame: "small".
        epochs: of fine-tuning, instead of the recipe's.
        baseline: the upstream that the others are compared with, by its name in the table; None: each is compared with
            itself from scratch if that is among them, else with the first one from scratch.
        download: downloads the weights of wav2vec2-base or hubert-base when they are not on this machine.
        progress: shows a progress bar.
    """
    names, out = _titles(upstreams), Path(out)
    if not names or not tasks or not seeds:
        raise CompareError("There is nothing to compare: name at least an upstream, a task and a seed.")
    baselines = _baselines(names, baseline)
    settings = {
        "pooling": pooling, "layer": layer, "seeds": list(seeds), "fine_tune": fine_tune, "epochs": epochs,
        "baseline": baseline, "download": download,
    }  # fmt: skip
    rows, read = Rows(out, pooling, layer, cache, fine_tune, epochs, download, progress), read_tasks(tasks)
    seeds = list(dict.fromkeys(seeds))
    measured = [result for title, name in names.items() for result in rows.results(title, name, read, seeds)]
    order = {task.name: place for place, task in enumerate(read)}
    results = with_differences(measured, baselines)
    results.sort(key=lambda result: (result.method != PROBED, order[result.task]))
    lengths = {task.name: seconds_of(task.tests.clips) for task in read if task.set is not None}
    comparison = Comparison(tuple(results), baselines, settings, _command(names, tasks, out, settings), lengths,
                            names, tuple(str(task) for task in tasks))  # fmt: skip
    write(comparison, out)
    return comparison


class Earlier(NamedTuple):
    """What a folder's table was made of."""

    upstreams: dict[str, str]  # name in the table -> name of the upstream
    tasks: tuple[str, ...]
    settings: dict[str, Any]


def earlier(out: Path_) -> Earlier | None:
    """What is in a folder already; None where there is no table, or one that does not tell."""
    try:
        content = json.loads((Path(out) / "comparison.json").read_text(encoding="utf-8"))
        return Earlier(dict(content["upstreams"]), tuple(content["tasks"]), dict(content["settings"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _titles(upstreams: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Title in the table -> name of the upstream, from "title=name" or names alone; :class:`CompareError` where two share a
    title."""
    pairs = list(upstreams.items()) if isinstance(upstreams, Mapping) else []
    for text in () if isinstance(upstreams, Mapping) else upstreams:
        title, equals, name = text.partition("=")
        pairs.append((title, name) if equals and not os.path.exists(text) else (text, text))
    names = dict(pairs)
    for title, name in pairs:
        if name != names[title]:
            raise CompareError(f"Both {name} and {names[title]} are called {title!r}: give each its own name.")
    return names


def _baselines(names: Mapping[str, str], baseline: str | None) -> dict[str, str]:
    """Title -> title of the upstream that it is compared with, "" for none."""
    if baseline is not None and baseline not in names:
        raise CompareError(f"The baseline {baseline!r} is not among the upstreams: {', '.join(names)}.")
    from_scratch = {title: name.partition(":")[2] for title, name in names.items() if name.startswith("scratch")}
    of_model = {model: title for title, model in from_scratch.items()}
    first = next(iter(from_scratch), "")
    return {title: baseline or of_model.get(name, first) for title, name in names.items()}


def _command(names: Mapping[str, str], tasks: Sequence[Path_], out: Path, settings: Mapping[str, Any]) -> str:
    """The command line of a comparison, without options that have their defaults."""
    words = ["ssast-lab", "compare", *(name if name == title else f"{title}={name}" for title, name in names.items())]
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
