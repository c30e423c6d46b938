"""The page that goes with an exported model: what it is, how it was made, how good it is, how to use it, and what is to be known.

Everything that a checkpoint says of itself is written by whoever made it: it is taken as text, never as markup.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from torch import nn

from ssast_lab.checkpoint.report import fingerprint
from ssast_lab.config import ModelConfig
from ssast_lab.model import Classifier

KINDS = {
    "SSAST": "a pretraining model: the encoder and both pretext heads",
    "Classifier": "a classifier: the encoder and a linear head",
    "EncoderModel": "an encoder without a head",
}
LONGEST = 300  # letters of what a checkpoint says of itself
ROWS = 12  # of the curves
CITATIONS = """```bibtex
@inproceedings{gong2022ssast,
  title     = {{SSAST}: Self-Supervised Audio Spectrogram Transformer},
  author    = {Gong, Yuan and Lai, Cheng-I and Chung, Yu-An and Glass, James},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2022}
}
```"""


def card(
    model: nn.Module,
    about: Mapping[str, Any],
    library: str,
    usage: str,
    notes: Sequence[str],
    measured: Sequence[str] = (),
    pictures: Iterable[str] = (),
) -> str:
    """A README.md: ``about`` is what the checkpoint says of itself (a run's recipe, corpora, curves), ``usage`` how it is loaded,
    ``notes`` what the format cannot hold, ``measured`` how the exported file compares with the model."""
    parts = [
        _front(model, about, library),
        f"# {_text(about.get('title') or type(model).__name__)}",
        _text(about.get("note", "")),
        "## What it is",
        _table(("", ""), _facts(model)),
        "## How to use it",
        usage,
        *(("## What is to be known", _list(notes)) if notes else ()),
        *(("## Compared with the model it was made of", _list(measured)) if measured else ()),
        "## What it heard and how it learned",
        _table(("", ""), _training(about)) or "The checkpoint does not say.",
        *_quality(about),
        *(f"![{name}]({name})" for name in pictures),
        "## Licence and citation",
        _licence(about),
        CITATIONS,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(model: nn.Module, about: Mapping[str, Any], library: str) -> str:
    task = "audio-classification" if isinstance(model, Classifier) else "feature-extraction"
    lines = [f"library_name: {library}", f"pipeline_tag: {task}", "tags: [audio, ssast, self-supervised-learning]"]
    licence = about.get("licence")
    if isinstance(licence, str) and licence.replace("-", "").replace(".", "").isalnum():
        lines.insert(0, f"license: {licence.lower()}")
    return "\n".join(["---", *lines, "---"])


def _facts(model: nn.Module) -> Iterator[tuple[str, str]]:
    config: ModelConfig = model.config  # type: ignore[assignment]
    grid = config.grid
    yield "kind", KINDS.get(type(model).__name__, type(model).__name__)
    yield "parameters", f"{sum(value.numel() for value in model.parameters()):,}"
    yield "encoder", f"{config.depth} layers, {config.width} wide, {config.heads} heads"
    yield (
        "patches",
        f"{grid.shape[0]} mel bins x {grid.shape[1]} frames at a stride of {grid.stride[0]} x {grid.stride[1]}: "
        f"{grid.rows} x {grid.columns} = {grid.count} in {config.frames} frames of 10 ms",
    )
    yield "features", f"Kaldi log-mel of {config.audio}: normalised as (x - mean) / (2 * deviation)"
    if isinstance(model, Classifier):
        names = ", ".join(config.labels[:40]) + (" ..." if len(config.labels) > 40 else "")
        yield "labels", f"{len(config.labels)}: {names}"
        yield "pooling", "the mean over the patches" if config.pooling == "mean" else "[CLS] and distillation"
    yield "fingerprint of the weights", f"{fingerprint(model)[:16]} (SHA-256)"


def _training(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("from", "steps", "clips", "epochs", "device", "commit", "torch"):
        if isinstance(about.get(name), str | int | float):
            value = about[name]
            yield name, f"{value:,}" if isinstance(value, int) else str(value)
    for corpus in about["corpus"] if isinstance(about.get("corpus"), list) else ():
        hours = corpus.get("hours") if isinstance(corpus, dict) else None
        hours = hours.get("train") if isinstance(hours, dict) else None
        if isinstance(hours, dict):
            yield "corpus", ", ".join(f"{value} h of {name}" for name, value in hours.items())
            yield "checksum of the corpus", str(corpus.get("sha256"))
    for name, value in _flat(about.get("recipe")):
        yield name, ", ".join(map(_placeless, value if isinstance(value, list | tuple) else [value]))


def _placeless(value: Any) -> str:
    """Without the folders above it, where this is a path: they are the business of whoever trained."""
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else str(value)


def _flat(values: Any, before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict) and depth < 4:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from _flat(value, f"{before}{name}.", depth + 1)
            elif value not in (None, "", [], ()):
                yield f"{before}{name}", value


def _quality(about: Mapping[str, Any]) -> Iterator[str]:
    """What was measured on held-out clips."""
    steps = about.get("curves")
    steps = [step for step in steps if isinstance(step, dict) and "step" in step] if isinstance(steps, list) else []
    if steps:
        names = [name for name in steps[-1] if all(isinstance(step.get(name), int | float) for step in steps)]
        chosen = {
            round(place * (len(steps) - 1) / max(min(len(steps), ROWS) - 1, 1))
            for place in range(min(len(steps), ROWS))
        }
        yield "## While it learned, on held-out clips"
        yield _table(names, ([_number(steps[place][name]) for name in names] for place in sorted(chosen)))
    held_out = about.get("held_out")
    if isinstance(held_out, dict):
        known = {name: value for name, value in held_out.items() if value is not None}
        yield "These weights: " + ", ".join(f"{name} {_number(value)}" for name, value in known.items()) + "."
    judged = about.get("report")
    for judgement in filter(lambda one: isinstance(one, dict), judged if isinstance(judged, list) else ()):
        figures = {
            name: value["value"]
            for name, value in judgement.items()
            if isinstance(value, dict) and isinstance(value.get("value"), int | float)
        }
        if figures:
            yield "On the test set: " + ", ".join(f"{_text(name)} {value:.4g}" for name, value in figures.items()) + "."


def _licence(about: Mapping[str, Any]) -> str:
    licence = about.get("licence")
    said = (
        f"Licence of the weights: {_text(licence)}."
        if licence
        else "Their maker has not said under which licence the weights are."
    )
    return f"{said} Please cite the paper whose method this is; the model was made with SSAST Lab."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines]) if lines else ""


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    """As plain text in one line of a table."""
    text = " ".join(str(value).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
