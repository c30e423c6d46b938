"""A study as a page, a table and a figure, with a conclusion that says no more than the intervals do."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ssast_lab.config import PretrainConfig
from ssast_lab.measuring.compare import (
    ABOVE,
    BELOW,
    Comparison,
    Entry,
    by_length,
    draw,
    table_of,
    told,
    told_apart,
    write_text,
)
from ssast_lab.measuring.compare.pages import at_home, crossed, pictured, versions
from ssast_lab.measuring.studies.pretraining import UNTRAINED, Trained
from ssast_lab.measuring.studies.questions import Study, Variant

Path_ = str | os.PathLike[str]


def write_study(
    study: Study, trained: Sequence[Trained], comparison: Comparison, tasks: Sequence[Path_], out: Path_, command: str
) -> Path:
    """``NAME.md``, ``NAME.csv`` and ``NAME.svg`` (or ``.html``) in a folder; returns the page."""
    out, entries = Path(out), list(comparison.entries)
    write_text(out / f"{study.name}.csv", table_of([told(entry) for entry in entries]))
    picture = draw(pictured(entries, study.question), out / study.name)
    kinds = kinds_of(tasks, entries)
    lines = [f"# {study.question}", "", "## What it says", ""]
    lines += [f"- {sentence}" for sentence in conclusion(study, entries, kinds)]
    lines += ["", picture, "", "## Linear probe", "", *crossed(entries, comparison), ""]
    lines += [f"Kinds of tasks: {'; '.join(f'{kind}: {_listed(names)}' for kind, names in kinds.items())}."]
    failures = dict.fromkeys((entry.upstream, entry.failure) for entry in entries if entry.failure)
    lines += [f"\n{name} could not be measured: {at_home(failure)}" for name, failure in failures]
    table = by_length(_pairs(study), entries, comparison.lengths)
    lines += ["", "## By the length of the sound", "", *table] if table else []
    lines += ["", "## How it was made", "", "```", command, "```", "", *study.remarks, "", *_budget(trained), ""]
    page = out / f"{study.name}.md"
    write_text(page, "\n".join([*lines, machine(), ""]))
    return page


def kinds_of(tasks: Sequence[Path_], entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Kind ("speech", "sounds", or "other" where no task.json says it) -> names of tasks."""
    said = {}
    for task in map(Path, tasks):
        card = (task if task.is_dir() else task.parent) / "task.json"
        if card.is_file():
            said[card.parent.resolve().name] = json.loads(card.read_text(encoding="utf-8")).get("kind", "")
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(entry.task for entry in entries):
        found.setdefault(said.get(name) or "other", []).append(name)
    return found


def conclusion(study: Study, entries: Sequence[Entry], kinds: dict[str, list[str]]) -> list[str]:
    """A sentence for each pair and kind of task, and first one on whether training did anything at all."""
    measured = {(entry.upstream, entry.task): entry for entry in entries if entry.runs}
    sentences = [_against_untrained(study, measured)]
    if max((len(entry.runs) for entry in measured.values()), default=0) == 1:
        sentences.append("One seed: how far training itself varies is not in the intervals, so that they say too much.")
    for one, other in study.pairs:
        for kind, tasks in kinds.items():
            sentences.append(_pair(one, other, kind, tasks, measured))
    return sentences


def _untrained(variant: Variant) -> str:
    """What the variant was before training is called, where the study has both shapes."""
    patch = variant.changes.get("model", {}).get("patch", (16, 16))
    return f"{UNTRAINED}, {'patch' if patch[0] == patch[1] else 'frame'}"


def _pairs(study: Study) -> list[tuple[str, str]]:
    """What the study compares, and where two of unlike shapes are compared also how these differed before training."""
    before = {variant.name: _untrained(variant) for variant in study.variants}
    shapes = [(before[one], before[other]) for one, other in study.pairs if before[one] != before[other]]
    return [*study.pairs, *shapes]


def _against_untrained(study: Study, measured: dict[tuple[str, str], Entry]) -> str:
    above, pairs = 0, 0
    for variant in study.variants:
        for (name, task), entry in measured.items():
            start = measured.get((UNTRAINED, task)) or measured.get((_untrained(variant), task))
            if name == variant.name and start:
                pairs += 1
                above += told_apart(entry, start).verdict == ABOVE
    if not pairs:
        return "Nothing could be measured."
    weighed = "" if 2 * above > pairs else ": at this budget differences among the variants mean little"
    return f"Pretraining beats the same model untrained in {above} of {pairs} pairs of variant and task{weighed}."


def _pair(one: str, other: str, kind: str, tasks: Sequence[str], measured: dict[tuple[str, str], Entry]) -> str:
    verdicts: dict[str, list[str]] = {}
    for task in tasks:
        if (one, task) in measured and (other, task) in measured:
            found = told_apart(measured[one, task], measured[other, task])
            interval = found.interval
            verdicts.setdefault(found.verdict, []).append(
                f"{task} ({interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}])"
            )
    if not verdicts:
        return f"{one} against {other} on {kind} tasks: nothing could be measured."
    untold = [task for verdict, those in verdicts.items() if verdict not in (ABOVE, BELOW) for task in those]
    parts = [f"{verdict} {other} on {_listed(verdicts[verdict])}" for verdict in (ABOVE, BELOW) if verdict in verdicts]
    if not parts:
        return f"On {kind} tasks this budget cannot tell {one} from {other}: {_listed(untold)}."
    rest = f"; this budget cannot tell them apart on {_listed(untold)}" if untold else ""
    return f"On {kind} tasks {one} is {' and '.join(parts)}{rest}."


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _budget(trained: Sequence[Trained]) -> list[str]:
    """What each variant learned from, for how long, and how far it came in what it was trained for."""
    lines = [
        "| variant | steps x batch | clips seen | clips in its corpus | learning rate | held-out accuracy | held-out MSE | minutes a run |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for one in trained:
        t = one.recipe.training
        accuracy, mse, seconds = (
            float(np.mean([line[name] for line in one.figures]))
            for name in ("held_out_accuracy", "held_out_mse", "seconds")
        )
        lines.append(
            f"| {one.name} | {t.steps} x {t.batch} | {t.steps * t.batch} | {one.clips} | {t.learning_rate:.2g} | "
            f"{accuracy:.2%} | {mse:.4f} | {seconds / 60:.1f} |"
        )
    first = trained[0].recipe
    hidden = f"{min(first.training.evaluate_masks, first.model.grid.count)} patches hidden"
    return [*lines, "", f"Held-out figures are means over the seeds, with {hidden}. {_model(first)}"]


def _model(recipe: PretrainConfig) -> str:
    m = recipe.model
    return f"All models have {m.depth} layers, {m.width} wide, {m.heads} heads, and windows of {m.frames} frames."


def machine() -> str:
    """What computed it."""
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{_processor()}, {torch.get_num_threads()} threads"
    )
    told_ = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"Machine: {device}. Versions: {told_}."


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
