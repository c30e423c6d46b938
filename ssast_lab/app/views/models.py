"""Models: what is loaded, what else there is, and how it was read."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ssast_lab.analysis import Fingerprint
from ssast_lab.app.shelf import Opened
from ssast_lab.app.sources import Model
from ssast_lab.app.state import Common, Seen, Wish
from ssast_lab.app.views.view import Answer, Asked, Refusal, View
from ssast_lab.checkpoint import CheckpointError, LoadReport, Weight
from ssast_lab.config import ModelConfig, to_dict
from ssast_lab.model import SSAST

KINDS = {
    "SSAST": "pretraining model: encoder and both pretext heads",
    "Classifier": "classifier: encoder and a linear head",
    "EncoderModel": "encoder alone",
    "APC": "autoregressive predictive coding, a rival of SSAST",
    "Wav2Vec": "wav2vec in small, a rival of SSAST",
}
CURVES = ("nce", "mse", "accuracy")
LONGEST = 300  # letters of what a file says of itself
SAID = ("title", "note", "licence", "steps", "clips", "commit", "device", "torch")
ONLY_PRETRAINED = (
    "Only a pretraining model can hide patches and draw them: this one has no pretext heads for the stage."
)


def look(seen: Seen, asked: Asked, common: Common) -> Answer:
    """The model that is asked for by its name on the shelf, or the one in use."""
    entries = common.shelf.entries()
    in_use = next((name for name, path in entries.items() if path == seen.model.path), None)
    name = asked.get("name")
    name = name if isinstance(name, str) and name in entries else in_use
    answer: Answer = {"entries": [*entries], "in_use": in_use, "label": seen.model.label, "name": name}
    try:
        model = common.shelf.open(name) if name else common.shelf.open_at(seen.model.path, seen.model.label)
    except CheckpointError as error:
        return answer | {"trouble": str(error)}
    return answer | described(model)


def described(opened: Opened) -> Answer:
    model, about, report = opened.model, opened.about, opened.report
    return {
        "usable": isinstance(model, SSAST), "why_not": ONLY_PRETRAINED,
        "facts": [[name, plain(value)] for name, value in (*facts(model, about), *read_facts(report))],
        "recipe": [[name, plain(value)] for name, value in flat(about.get("recipe"))],
        "curves": curves(about.get("curves")), "tree": tree(model),
        "report": {"format": report.format} | {part: rows(getattr(report, part)) for part in ("taken", "left", "missing")},
        "fingerprint": fingerprint(opened),
    }  # fmt: skip


def facts(model: nn.Module, about: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    kind = type(model).__name__
    yield "Kind", KINDS.get(kind, kind)
    yield "Parameters", f"{sum(value.numel() for value in model.parameters()):,}"
    config: Any = model.config
    if isinstance(config, ModelConfig):
        grid = config.grid
        yield "Encoder", f"{config.depth} layers, {config.width} wide, {config.heads} heads"
        yield (
            "Patches",
            f"{grid.shape[0]} mel bins x {grid.shape[1]} frames at a stride of {grid.stride[0]} x {grid.stride[1]}: "
            f"{grid.rows} x {grid.columns} = {grid.count} in {config.frames} frames",
        )
        yield "Features", str(config.audio)
        if config.labels:
            yield "Labels", f"{len(config.labels)}: {', '.join(config.labels)}"
    else:
        yield from ((name, value) for name, value in to_dict(config).items())
    for name in SAID:
        if name in about and isinstance(about[name], str | int | float):
            yield name.capitalize(), str(about[name])[:12] if name == "commit" else about[name]
    for corpus in about["corpus"] if isinstance(about.get("corpus"), list) else ():
        hours = (
            corpus.get("hours", {}).get("train")
            if isinstance(corpus, dict) and isinstance(corpus.get("hours"), dict)
            else None
        )
        if isinstance(hours, dict):
            yield "Learned from", ", ".join(f"{plain(value)} h of {name}" for name, value in hours.items())


def read_facts(report: LoadReport) -> Iterable[tuple[str, str]]:
    """How the file was read, beyond the tables of its weights."""
    for name in ("features", "positions"):
        if getattr(report, name):
            yield name.capitalize(), getattr(report, name)
    if len(report.layouts) > 1:
        taken, *others = map(str, report.layouts)
        yield "Layout", f"{taken}, likelier than {' and '.join(others)}, which its positions fit as well"
    yield "Weights", f"SHA-256 {report.fingerprint[:16]}"


def plain(value: Any) -> str:
    """What a file says, as a short text."""
    text = (
        f"{value:g}"
        if isinstance(value, float)
        else " x ".join(map(str, value))
        if isinstance(value, tuple)
        else str(value)
    )
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def flat(values: Any, before: str = "", depth: int = 0) -> Iterable[tuple[str, Any]]:
    if not isinstance(values, dict) or depth > 3:
        return
    for name, value in [*values.items()][:100]:
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.", depth + 1)
        else:
            yield f"{before}{name}", value


def curves(values: Any) -> list[dict[str, float]]:
    """Steps with what was measured on held-out clips, as far as it is that."""
    steps = values if isinstance(values, list) else []
    wanted = ("step", "masked", *CURVES)
    kept = [{name: step[name] for name in wanted if finite(step.get(name))} for step in steps if isinstance(step, dict)]
    return [step for step in kept if "step" in step][:2000]


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def rows(weights: Iterable[Weight]) -> list[list[Any]]:
    return [[weight.name, [*weight.shape], weight.note] for weight in weights]


def fingerprint(opened: Opened) -> Answer | None:
    """Of the model as it was loaded, beside what its file promises."""
    found, promised = opened.fingerprint, expected(opened.about.get("fingerprint"))
    if found is None:
        return None
    return {
        "sound": found.sound, "found": [*found.figures], "expected": promised and [*promised.figures],
        "agrees": promised and found.agrees(promised),
    }  # fmt: skip


def expected(values: Any) -> Fingerprint | None:
    try:
        (mean, std), (token_mean, token_std) = values["log_mel"], values["tokens"]
        log_mel, tokens = (float(mean), float(std)), (float(token_mean), float(token_std))
        promised = Fingerprint(str(values["sound"]), log_mel, tokens, float(values["attention"]))
    except (KeyError, TypeError, ValueError):
        return None
    return promised if all(map(math.isfinite, promised.figures)) else None


def tree(module: nn.Module, name: str = "") -> Answer:
    """Modules within modules, and the shapes of their weights."""
    own = [[part, [*value.shape]] for part, value in module.named_parameters(recurse=False)]
    return {
        "name": name, "kind": type(module).__name__, "weights": own,
        "count": sum(value.numel() for value in module.parameters()),
        "parts": [tree(child, part) for part, child in module.named_children() if [*child.parameters()]],
    }  # fmt: skip


def act(asked: Asked, common: Common) -> Wish:
    """Has the stage use a model of the shelf."""
    name, entries = asked.get("name"), common.shelf.entries()
    if not isinstance(name, str) or name not in entries:
        raise Refusal("There is no such model in the folders that were opened with --models.")
    path = entries[name]
    known = next((one for one, model in common.models.items() if model.path == path), None)
    if known:
        return Wish(model=known)
    try:
        opened = common.shelf.open(name)
    except CheckpointError as error:
        raise Refusal(str(error)) from None
    if not isinstance(opened.model, SSAST):
        raise Refusal(ONLY_PRETRAINED)
    kind = "frame" if opened.model.config.grid.rows == 1 else "patch"
    title, note = (plain(opened.about.get(part, "")) for part in ("title", "note"))
    common.models[name] = Model(
        path, kind, title or name, note, public=False, rate=opened.model.config.audio.sample_rate
    )
    return Wish(model=name)


CODE = """
mark = analysis.fingerprint(model)
print(f"log-mel {mark.log_mel}, tokens {mark.tokens}, attention {mark.attention:.3f}, {sum(p.numel() for p in model.parameters()):,} weights")
"""

VIEW = View(
    name="models",
    title="Models",
    hint="What is loaded, weight by weight? Choose another on the left: the table says what was taken of its file, left and missing.",
    look=look,
    shared=True,
    act=act,
    code=CODE,
)
