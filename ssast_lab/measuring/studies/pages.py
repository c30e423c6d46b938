"""A study as a page, a table and a figure. The conclusions say no more than the intervals do."""

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
    UNDECIDED,
    Comparison,
    TaskResult,
    by_length,
    csv_row,
    csv_table,
    draw,
    paired_difference,
    write_text,
)
from ssast_lab.measuring.compare.pages import cross_table, figure_of, versions_line, without_home
from ssast_lab.measuring.studies.pretraining import UNTRAINED, Trained
from ssast_lab.measuring.studies.questions import Study, Variant
from ssast_lab.tables import listed, markdown_table

Path_ = str | os.PathLike[str]
RULE = (
    "*Above* and *below* are said where the interval of the paired difference, in brackets, excludes 0 **and**, of several seeds, no seed "
    "of the one reaches a seed of the other. Where only the first holds, this budget cannot tell: another seed might turn it round."
)


def write_study(
    study: Study, trained: Sequence[Trained], comparison: Comparison, tasks: Sequence[Path_], out: Path_, command: str
) -> Path:
    """Writes ``NAME.md``, ``NAME.csv`` and ``NAME.svg`` (or ``.html``) into a folder. Returns the path of the page."""
    out, results = Path(out), list(comparison.results)
    write_text(out / f"{study.name}.csv", csv_table([csv_row(result) for result in results]))
    picture = draw(figure_of(results, study.question), out / study.name)
    kinds = kinds_of(tasks, results)
    lines = [f"# {study.question}", "", "## What it says", "", RULE, ""]
    lines += [f"- {sentence}" for sentence in conclusion(study, results, kinds)]
    lines += ["", picture, "", "## Linear probe", "", *cross_table(results, comparison), ""]
    lines += [f"Kinds of tasks: {'; '.join(f'{kind}: {listed(names)}' for kind, names in kinds.items())}."]
    failures = dict.fromkeys((result.upstream, result.failure) for result in results if result.failure)
    lines += [f"\n{name} could not be measured: {without_home(failure)}" for name, failure in failures]
    table = by_length(_pairs(study), results, comparison.lengths)
    lines += ["", "## By the length of the sound", "", *table] if table else []
    lines += ["", "## How it was made", "", "```", command, "```", "", *study.remarks, "", *_budget(trained), ""]
    page = out / f"{study.name}.md"
    write_text(page, "\n".join([*lines, machine(), ""]))
    return page


def kinds_of(tasks: Sequence[Path_], results: Iterable[TaskResult]) -> dict[str, list[str]]:
    """Kind ("speech" or "sounds" as task.json says, else "other") -> names of tasks."""
    kinds = {}
    for task in map(Path, tasks):
        card = (task if task.is_dir() else task.parent) / "task.json"
        if card.is_file():
            kinds[card.parent.resolve().name] = json.loads(card.read_text(encoding="utf-8")).get("kind", "")
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(result.task for result in results):
        names.setdefault(kinds.get(name) or "other", []).append(name)
    return names


def conclusion(study: Study, results: Sequence[TaskResult], kinds: dict[str, list[str]]) -> list[str]:
    """First a sentence on whether training helped at all, then one for each pair and kind of task."""
    measured = {(result.upstream, result.task): result for result in results if result.runs}
    sentences = [_against_untrained(study, measured)]
    if max((len(result.runs) for result in measured.values()), default=0) == 1:
        sentences.append("One seed: how far training itself varies is not in the intervals, so that they say too much.")
    for one, other in study.pairs:
        for kind, tasks in kinds.items():
            sentences.append(_pair(one, other, kind, tasks, measured))
    return sentences


def _untrained(variant: Variant) -> str:
    """The title of the variant's untrained model, where the study has patch and frame models."""
    patch = variant.changes.get("model", {}).get("patch", (16, 16))
    return f"{UNTRAINED}, {'patch' if patch[0] == patch[1] else 'frame'}"


def _pairs(study: Study) -> list[tuple[str, str]]:
    """The pairs of the study; where a patch model is compared with a frame model, also the pair of the untrained models."""
    before = {variant.name: _untrained(variant) for variant in study.variants}
    shapes = [(before[one], before[other]) for one, other in study.pairs if before[one] != before[other]]
    return [*study.pairs, *shapes]


def _against_untrained(study: Study, measured: dict[tuple[str, str], TaskResult]) -> str:
    above, pairs = 0, 0
    for variant in study.variants:
        for (name, task), result in measured.items():
            start = measured.get((UNTRAINED, task)) or measured.get((_untrained(variant), task))
            if name == variant.name and start:
                pairs += 1
                above += paired_difference(result, start).verdict == ABOVE
    if not pairs:
        return "Nothing could be measured."
    caution = "" if 2 * above > pairs else ": at this budget differences among the variants mean little"
    return f"Pretraining beats the same model untrained in {above} of {pairs} pairs of variant and task{caution}."


def _pair(one: str, other: str, kind: str, tasks: Sequence[str], measured: dict[tuple[str, str], TaskResult]) -> str:
    verdicts: dict[str, list[str]] = {}
    for task in tasks:
        if (one, task) in measured and (other, task) in measured:
            interval, verdict = paired_difference(measured[one, task], measured[other, task])
            verdicts.setdefault(verdict, []).append(
                f"{task} ({interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}])"
            )
    if not verdicts:
        return f"{one} against {other} on {kind} tasks: nothing could be measured."
    undecided = listed(verdicts.get(UNDECIDED, []))
    parts = [f"{verdict} {other} on {listed(verdicts[verdict])}" for verdict in (ABOVE, BELOW) if verdict in verdicts]
    if not parts:
        return f"On {kind} tasks this budget cannot tell {one} from {other}: {undecided}."
    rest = f"; this budget cannot tell them apart on {undecided}" if undecided else ""
    return f"On {kind} tasks {one} is {' and '.join(parts)}{rest}."


def _budget(trained: Sequence[Trained]) -> list[str]:
    """Lines of a Markdown table: each variant's training, its cost, and its figures on held-out clips."""
    head = ["variant", "steps x batch", "clips seen", "clips in its corpus", "learning rate", "held-out accuracy",
            "held-out MSE", "minutes a run"]  # fmt: skip
    rows = []
    for one in trained:
        t = one.recipe.training
        accuracy, mse, seconds = (
            float(np.mean([line[name] for line in one.figures]))
            for name in ("held_out_accuracy", "held_out_mse", "seconds")
        )
        rows.append([
            one.name, f"{t.steps} x {t.batch}", f"{t.steps * t.batch}", f"{one.clips}", f"{t.learning_rate:.2g}",
            f"{accuracy:.2%}", f"{mse:.4f}", f"{seconds / 60:.1f}",
        ])  # fmt: skip
    first = trained[0].recipe
    hidden = f"{min(first.training.evaluate_masks, first.model.grid.count)} patches hidden"
    note = f"Held-out figures are means over the seeds, with {hidden}. {_model(first)}"
    return [*markdown_table(head, rows, right=range(1, len(head))), "", note]


def _model(recipe: PretrainConfig) -> str:
    m = recipe.model
    return f"All models have {m.depth} layers, {m.width} wide, {m.heads} heads, and windows of {m.frames} frames."


def machine() -> str:
    """A sentence on the hardware and one on the versions of the software."""
    cpu = f"{_processor()}, {torch.get_num_threads()} threads"
    return f"Machine: {torch.cuda.get_device_name() if torch.cuda.is_available() else cpu}. {versions_line()}"


def _processor() -> str:
    """The name of the processor, from Linux where possible."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
