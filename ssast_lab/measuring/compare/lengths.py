"""Where a difference lies: on short sounds, or on long ones.

A square of 16 frames spans 160 ms and a strip of two 20 ms, so that a sound of a third of a second is a few columns to a
patch model: what a task's sounds last decides what a model can show on it. Axes: C clips that are tested, L labels.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from ssast_lab import audio, metrics
from ssast_lab.data import Clip
from ssast_lab.measuring.compare.records import MARKS, Entry, told_apart

BANDS = ((0.0, 0.5), (0.5, 2.0), (2.0, math.inf))  # seconds, the second bound excluded
FEWEST = 30  # clips that a band must have to be told of


def seconds_of(clips: Iterable[Clip]) -> np.ndarray:
    """(C,) what the headers say; nan of a clip that cannot be read."""
    return np.array([_seconds(clip) for clip in clips])


def _seconds(clip: Clip) -> float:
    try:
        return audio.info(clip.open()).seconds
    except (audio.AudioError, OSError):
        return math.nan


def by_length(
    pairs: Iterable[tuple[str, str]], entries: Iterable[Entry], lengths: Mapping[str, np.ndarray]
) -> list[str]:
    """A table of each pair's paired differences on the test clips of each length, of tasks whose clips fall into two bands
    at least; [] where there is none. ``entries``: of one method; ``lengths``: task -> (C,) seconds."""
    measured, pairs, rows = {(entry.upstream, entry.task): entry for entry in entries if entry.runs}, list(pairs), []
    for task, seconds in lengths.items():
        bands = [np.flatnonzero((seconds >= low) & (seconds < high)) for low, high in BANDS]
        if sum(len(clips) >= FEWEST for clips in bands) < 2:
            continue
        for one, other in pairs:
            if (one, task) in measured and (other, task) in measured:
                both = measured[one, task], measured[other, task]
                cells = [_difference(*both, clips) for clips in bands]
                rows.append(f"| {task} | *{one}* minus *{other}* | {' | '.join(cells)} |")
    if not rows:
        return []
    heads = [_named(low, high) for low, high in BANDS]
    return [
        f"| task | | {' | '.join(heads)} |",
        f"| --- | --- |{' --- |' * len(heads)}",
        *rows,
        "",
        f"Paired differences with their 95 % intervals and the number of test clips, where there are {FEWEST} at least. ▲ and ▼: "
        "the interval excludes 0, and of several seeds none of the one reaches one of the other. Of so many intervals one in twenty "
        "excludes 0 by chance.",
    ]


def _difference(one: Entry, other: Entry, clips: np.ndarray) -> str:
    if len(clips) < FEWEST or not one.runs[0].targets[clips].any():
        return ""
    found = told_apart(_part(one, clips), _part(other, clips))
    value, low, high, _ = found.interval
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{MARKS.get(found.verdict, '')} ({len(clips)})"


def _part(entry: Entry, clips: np.ndarray) -> Entry:
    """The entry, had only these test clips (indices) been tested."""
    runs = [
        metrics.score(run.targets[clips], run.scores[clips], run.labels, [f"group {g}" for g in run.groups[clips]])
        for run in entry.runs
    ]
    return replace(entry, runs=tuple(runs), averaged=None, difference=None)


def _named(low: float, high: float) -> str:
    if not low:
        return f"below {high:g} s"
    return f"{low:g} s and longer" if math.isinf(high) else f"{low:g} to {high:g} s"
