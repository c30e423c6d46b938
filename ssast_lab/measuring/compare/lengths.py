"""Differences by the length of the sounds.

A square patch of 16 frames spans 160 ms, a frame patch of two frames 20 ms. A sound of a third of a second is therefore only
a few columns for a patch model, so that differences may depend on the length. Axes: C clips that are tested, L labels.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from ssast_lab import audio, metrics
from ssast_lab.data import Clip
from ssast_lab.measuring.compare.records import MARKS, TaskResult, paired_difference
from ssast_lab.tables import markdown_table

BANDS = ((0.0, 0.5), (0.5, 2.0), (2.0, math.inf))  # seconds, the second bound excluded
FEWEST = 30  # clips; a band with fewer is left empty


def seconds_of(clips: Iterable[Clip]) -> np.ndarray:
    """(C,) seconds; nan for a clip that cannot be read."""
    return np.array([_seconds(clip) for clip in clips])


def _seconds(clip: Clip) -> float:
    try:
        return audio.info(clip.open(), [], damage=False).seconds
    except (audio.AudioError, OSError):
        return math.nan


def by_length(
    pairs: Iterable[tuple[str, str]], results: Iterable[TaskResult], lengths: Mapping[str, np.ndarray]
) -> list[str]:
    """Lines of a Markdown table: the paired differences of each pair on the test clips of each length. Only tasks whose clips
    fill at least two bands are in it; [] where none does. ``results``: of one method; ``lengths``: task -> (C,) seconds."""
    measured, pairs, rows = (
        {(result.upstream, result.task): result for result in results if result.runs},
        list(pairs),
        [],
    )
    for task, seconds in lengths.items():
        bands = [np.flatnonzero((seconds >= low) & (seconds < high)) for low, high in BANDS]
        if sum(len(clips) >= FEWEST for clips in bands) < 2:
            continue
        for one, other in pairs:
            if (one, task) in measured and (other, task) in measured:
                pair = measured[one, task], measured[other, task]
                rows.append([task, f"*{one}* minus *{other}*", *(_difference(*pair, clips) for clips in bands)])
    if not rows:
        return []
    return [
        *markdown_table(["task", "difference", *(_heading(low, high) for low, high in BANDS)], rows),
        "",
        f"Paired differences with their 95 % intervals and the number of test clips, where there are {FEWEST} at least. ▲ and ▼: "
        "the interval excludes 0, and of several seeds none of the one reaches one of the other. Of so many intervals one in twenty "
        "excludes 0 by chance.",
    ]


def _difference(one: TaskResult, other: TaskResult, clips: np.ndarray) -> str:
    if len(clips) < FEWEST or not one.runs[0].targets[clips].any():
        return ""
    difference = paired_difference(_part(one, clips), _part(other, clips))
    value, low, high, _ = difference.interval
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{MARKS.get(difference.verdict, '')} ({len(clips)})"


def _part(result: TaskResult, clips: np.ndarray) -> TaskResult:
    """The result on these test clips (their numbers) alone."""
    runs = [
        metrics.score(run.targets[clips], run.scores[clips], run.labels, [f"group {g}" for g in run.groups[clips]])
        for run in result.runs
    ]
    return replace(result, runs=tuple(runs), averaged=None, difference=None)


def _heading(low: float, high: float) -> str:
    if not low:
        return f"below {high:g} s"
    return f"{low:g} s and longer" if math.isinf(high) else f"{low:g} to {high:g} s"
