"""What upstreams reached on tasks, as records. Axes: C clips that are tested, L labels, S seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ssast_lab import metrics
from ssast_lab.metrics import Interval, Scores

PROBED, TUNED = "linear probe", "fine-tuned"
ABOVE, BELOW, UNDECIDED = "above", "below", "cannot be told"  # as tables that were written earlier have it
MARKS = {ABOVE: " ▲", BELOW: " ▼"}


class CompareError(ValueError):
    """A comparison that cannot be made. The message says why and what to do."""


class Averaged(NamedTuple):
    """The trainings of S seeds as one classifier, whose figures are the means over the seeds. Its resamples draw a clip, or
    source, for all seeds together, so that the intervals are those of the means."""

    decisions: Scores  # (S C, L), the clips of all seeds: its accuracy and recall are the means over the seeds
    ranking: Scores  # (C, S L), the labels of all seeds: its mean average precision is the mean over the seeds


class PairedDifference(NamedTuple):
    """An upstream minus its baseline, on the same clips."""

    interval: Interval  # of the task's measure; positive where the upstream is better
    verdict: str  # ABOVE or BELOW where the interval excludes 0 and the seeds of the two do not overlap; else UNDECIDED


@dataclass(frozen=True, eq=False)
class TaskResult:
    """What one upstream reached on one task."""

    upstream: str
    task: str
    method: str
    failure: str = ""  # why there are no figures, in a sentence
    runs: tuple[Scores, ...] = ()  # (S,), or a single one where the seed changes nothing
    layers: tuple[int, ...] = ()  # chosen by the probes
    clips: int = 0  # of the whole task
    seconds: float = 0.0  # of all seeds together; cached embeddings take none
    averaged: Averaged | None = None
    noticed: dict[str, str] = field(default_factory=dict)  # name of a clip -> what should be known of it
    difference: PairedDifference | None = None  # None for the baseline, and where one of the two failed

    @property
    def measure(self) -> str:
        """The name of the headline figure."""
        return "mAP" if self.runs and self.runs[0].accuracy is None else "accuracy"

    @property
    def figure(self) -> Interval | None:
        """The measure, averaged over the seeds."""
        return headline(self.averaged) if self.averaged else None

    @property
    def singles(self) -> tuple[float, ...]:
        """(S,) the measure of each seed."""
        return tuple(headline(Averaged(run, run)).value for run in self.runs)

    @property
    def deviation(self) -> float:
        """Standard deviation of the measure over the seeds; nan for a single seed."""
        if not self.runs:
            return math.nan
        name = "mean_average_precision" if self.measure == "mAP" else "accuracy"
        return metrics.over_seeds(self.runs)[name].deviation


@dataclass(frozen=True, eq=False)
class Comparison:
    """All upstreams on all tasks, in the order in which they were named."""

    results: tuple[TaskResult, ...]
    baselines: dict[str, str]  # upstream -> the one that it is compared with; itself or "" for none
    settings: dict[str, Any]
    command: str
    lengths: dict[str, np.ndarray] = field(default_factory=dict)  # task -> (C,) seconds of the test clips
    upstreams: dict[str, str] = field(default_factory=dict)  # name in the table -> name of the upstream
    tasks: tuple[str, ...] = ()  # where they lie

    @property
    def against(self) -> dict[str, str]:
        """Upstream -> the other one that it is compared with, where there is one."""
        return {one: other for one, other in self.baselines.items() if other not in ("", one)}

    def of(self, method: str) -> list[TaskResult]:
        return [result for result in self.results if result.method == method]

    def best(self, task: str, method: str) -> float:
        """The highest figure on a task; -inf where nothing could be measured."""
        return max((r.figure.value for r in self.of(method) if r.task == task and r.figure), default=-math.inf)


def averaged(runs: Sequence[Scores], seeds: int = 1) -> Averaged:
    """Runs on the same clips as one classifier; a single run is repeated for each of ``seeds``."""
    runs = list(runs) * seeds if len(runs) == 1 else list(runs)
    if len(runs) == 1:
        return Averaged(runs[0], runs[0])
    first, count = runs[0], len(runs)
    groups = [f"group {group}" for group in first.groups]
    decisions = metrics.score(
        np.tile(first.targets, (count, 1)), np.vstack([run.scores for run in runs]), first.labels, groups * count
    )
    labels = [f"{label} {seed}" for seed in range(count) for label in first.labels]
    ranking = metrics.score(np.tile(first.targets, (1, count)), np.hstack([run.scores for run in runs]), labels, groups)
    return Averaged(decisions, ranking)


def headline(one: Averaged) -> Interval:
    """The accuracy, or the mean average precision where clips have several labels."""
    return one.decisions.accuracy or one.ranking.mean_average_precision


def paired_difference(one: TaskResult, other: TaskResult) -> PairedDifference:
    """``one`` minus ``other``, on the same clips; both must have figures."""
    seeds = max(len(one.runs), len(other.runs))
    interval = measured_difference(averaged(one.runs, seeds), averaged(other.runs, seeds))
    verdict = UNDECIDED
    if interval.low > 0 and min(one.singles) > max(other.singles):
        verdict = ABOVE
    elif interval.high < 0 and max(one.singles) < min(other.singles):
        verdict = BELOW
    return PairedDifference(interval, verdict)


def measured_difference(one: Averaged, other: Averaged) -> Interval:
    """``one`` minus ``other`` by accuracy, or by mean average precision where clips have several labels."""
    accuracy = metrics.difference(one.decisions, other.decisions).accuracy
    return accuracy or metrics.difference(one.ranking, other.ranking).mean_average_precision


def with_differences(results: Sequence[TaskResult], baselines: Mapping[str, str]) -> list[TaskResult]:
    """The results with their differences from their baselines. ``baselines``: upstream -> the one it is compared with."""
    measured = {(result.upstream, result.task, result.method): result for result in results if result.runs}
    compared = []
    for result in results:
        other = measured.get((baselines.get(result.upstream, ""), result.task, result.method))
        if result.runs and other and other is not result:
            result = replace(result, difference=paired_difference(result, other))
        compared.append(result)
    return compared
