"""How well a classifier does on clips it never met, with how far each figure is to be trusted.

Axes: C clips, L labels, G groups that are drawn together (sources, or single clips), R resamples. Every interval is a
bootstrap interval of 95 %: the test set is drawn anew, with replacement, R times, and the figure is taken of each draw.
Accuracy and recall take the percentiles of the draws (Efron and Tibshirani 1993, chapter 13). Average precision is too high
on small sets, and again too high on draws of them, in which one clip stands several times: its interval reflects the
percentiles in the figure, which takes that back (the basic interval: Davison and Hinkley 1997, section 5.2), and is widened
to hold the figure where it would not. In a trial with 8 labels it held the truth in 88, 92 and 93 % of sets of 60, 200 and
1,000 clips, and plain percentiles in 58, 74 and 88 %. Of the difference of two classifiers percentiles are
taken, since what is too high in both cancels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

ENOUGH_SOURCES = 5  # with fewer, drawing whole sources says nothing
WORK = 4e9  # weights that the resamples of average precision may read: beyond, fewer resamples are drawn
FEWEST = 200  # resamples of average precision, however large the set


class MetricError(ValueError):
    """Predictions that cannot be scored: the message says why."""


class Interval(NamedTuple):
    """A figure between the bounds of its 95 % interval."""

    value: float
    low: float
    high: float
    resamples: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class ClassScore(NamedTuple):
    """One label."""

    label: str
    clips: int  # that have it
    recall: float  # of these, the share given this label; nan where clips have several labels, or none has this one
    precision: float  # share of right ones among the clips given this label; nan where it was never given
    average_precision: float  # nan where no clip has the label


@dataclass(frozen=True, eq=False)
class Scores:
    """What a classifier's scores on C clips are worth. Where clips have not exactly one label each, there is nothing that it
    decides for, and only average precision is known."""

    labels: tuple[str, ...]  # (L,)
    accuracy: Interval | None  # share of clips whose highest score is that of their label
    macro_recall: Interval | None  # mean over the labels that occur of the share of their clips that are right
    mean_average_precision: Interval  # mean over the labels that occur
    confusion: np.ndarray | None  # (L, L) clips: row is the true label, column the one of the highest score
    classes: tuple[ClassScore, ...]  # (L,)
    unit: str  # what was drawn for the intervals: "source" or "clip"
    targets: np.ndarray = field(repr=False)  # (C, L) bool
    scores: np.ndarray = field(repr=False)  # (C, L) float
    groups: np.ndarray = field(repr=False)  # (C,) which of the G groups a clip is drawn with

    @property
    def headlines(self) -> dict[str, Interval]:
        """The figures for the whole set, those that are known."""
        named = ("accuracy", "macro_recall", "mean_average_precision")
        return {name: value for name in named if (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        groups = int(self.groups.max()) + 1
        lines = [f"{len(self.targets)} clips, {len(self.labels)} labels; intervals of 95 % over {groups} {self.unit}s"]
        lines += [f"{name.replace('_', ' '):24}{value}" for name, value in self.headlines.items()]
        width = max(5, *(len(label) for label in self.labels))
        lines += ["", f"{'label':{width}}  {'clips':>6}  {'recall':>6}  {'precision':>9}  {'average precision':>17}"]
        for row in self.classes:
            figures = [
                f"{'–' if math.isnan(figure) else f'{figure:.3f}':>{size}}"
                for figure, size in zip(row[2:], (6, 9, 17), strict=True)
            ]
            lines.append("  ".join([f"{row.label:{width}}", f"{row.clips:6}", *figures]))
        return "\n".join(lines)


def score(
    targets: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    sources: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Scores of a classifier.

    ``targets`` (C, L): 1 where the clip has the label; ``scores`` (C, L): any numbers, higher where the label is thought
    likelier (logits or probabilities); ``sources`` (C,): which recording, voice or instrument a clip comes from, "" unknown.

    Clips of one source are alike: they are right or wrong together, so that drawing single clips would make the interval
    narrower than the set deserves. With at least 5 sources, whole sources are drawn (cluster bootstrap: Davison and Hinkley
    1997, section 3.8; Field and Welsh 2007), a clip of unknown source by itself; with fewer, clips are. Average precision of
    very large sets is drawn fewer times, 200 at least: ``Interval.resamples`` says how often.
    """
    targets, scores = np.asarray(targets) > 0.5, np.asarray(scores, dtype=np.float64)
    labels = tuple(labels)
    if targets.shape != scores.shape or targets.shape[1:] != (len(labels),) or not len(targets):
        raise MetricError(
            f"Targets {targets.shape} and scores {scores.shape} do not fit each other and {len(labels)} labels: "
            "both must be (clips, labels), with a clip at least."
        )
    if not np.isfinite(scores).all():
        clip, place = np.argwhere(~np.isfinite(scores))[0]
        raise MetricError(
            f"The score of clip {clip} for {labels[place]!r} is {scores[clip, place]}: the classifier diverged."
        )
    if not targets.any():
        raise MetricError("No clip has a label: there is nothing to score.")
    if sources is not None and len(sources) != len(targets):
        raise MetricError(f"{len(sources)} sources do not fit {len(targets)} clips.")
    unit, groups = _groups(sources, len(targets))
    drawn = _drawn(groups, resamples, seed)

    precisions = average_precisions(targets, scores)
    occurs = targets.any(0)
    few = drawn[:, : _affordable(targets.size, resamples)]
    mean_ap = _reflected(float(precisions[occurs].mean()), _resampled_map(targets, scores, few[groups]))
    if (targets.sum(1) != 1).any():
        nan = math.nan
        table = zip(labels, targets.sum(0).tolist(), [nan] * len(labels), [nan] * len(labels), precisions.tolist())
        classes = tuple(ClassScore(*row) for row in table)
        return Scores(labels, None, None, mean_ap, None, classes, unit, targets, scores, groups)

    true, given = targets.argmax(1), scores.argmax(1)
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (true, given), 1)
    right = np.diag(confusion)
    with np.errstate(invalid="ignore"):
        recall, precision = right / confusion.sum(1), right / confusion.sum(0)
    accuracies, recalls = _resampled_decisions(true, given, len(labels), groups, drawn)
    table = zip(labels, targets.sum(0).tolist(), recall.tolist(), precision.tolist(), precisions.tolist())
    return Scores(
        labels,
        _percentiles(float((true == given).mean()), accuracies),
        _percentiles(float(recall[occurs].mean()), recalls),
        mean_ap,
        confusion,
        tuple(ClassScore(*row) for row in table),
        unit,
        targets,
        scores,
        groups,
    )


class Difference(NamedTuple):
    """How much better one classifier is than another on the same clips: positive where the first is better."""

    accuracy: Interval | None
    macro_recall: Interval | None
    mean_average_precision: Interval

    def __str__(self) -> str:
        return "\n".join(
            f"{name.replace('_', ' '):24}{value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"
            for name, value in self._asdict().items()
            if value is not None
        )


def difference(one: Scores, other: Scores, resamples: int = 1000, seed: int = 0) -> Difference:
    """``one`` minus ``other``, two classifiers scored on the same clips in the same order (paired bootstrap: both are taken of
    the same draws, so that what is hard for both cancels). Where an interval holds 0, the set cannot tell them apart."""
    if one.labels != other.labels or not np.array_equal(one.targets, other.targets):
        raise MetricError(
            "Two classifiers can be compared only on the same clips, in the same order, with the same labels."
        )
    if not np.array_equal(one.groups, other.groups):
        raise MetricError("Two classifiers can be compared only when the same sources were given for both.")
    drawn = _drawn(one.groups, resamples, seed)
    few = drawn[:, : _affordable(2 * one.targets.size, resamples)][one.groups]
    maps = _resampled_map(one.targets, one.scores, few) - _resampled_map(one.targets, other.scores, few)
    gained = one.mean_average_precision.value - other.mean_average_precision.value
    mean_ap = _percentiles(gained, maps)
    if one.accuracy is None or other.accuracy is None or one.macro_recall is None or other.macro_recall is None:
        return Difference(None, None, mean_ap)
    true = one.targets.argmax(1)
    of_one, of_other = (
        _resampled_decisions(true, each.scores.argmax(1), len(one.labels), one.groups, drawn) for each in (one, other)
    )
    return Difference(
        _percentiles(one.accuracy.value - other.accuracy.value, of_one[0] - of_other[0]),
        _percentiles(one.macro_recall.value - other.macro_recall.value, of_one[1] - of_other[1]),
        mean_ap,
    )


class Spread(NamedTuple):
    """One figure over several seeds of the same training."""

    mean: float
    deviation: float  # standard deviation over the seeds (n - 1); nan of a single seed
    values: tuple[float, ...]  # one for each seed

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.deviation:.3f} ({len(self.values)} seeds)"


def over_seeds(runs: Sequence[Scores]) -> dict[str, Spread]:
    """Name of a headline figure -> its spread over seeds: how far training itself varies, which the bootstrap of one run
    does not see."""
    if not runs:
        raise MetricError("There is no run to take the mean of.")
    spreads = {}
    for name in runs[0].headlines:
        values = tuple(run.headlines[name].value for run in runs)
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        spreads[name] = Spread(float(np.mean(values)), deviation, values)
    return spreads


def average_precisions(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(L,) average precision of each label, as scikit-learn's ``average_precision_score`` takes it (equal scores make one
    step); nan where no clip has the label."""
    return _average_precisions(targets, scores, np.ones((len(targets), 1)))[:, 0]


# --- drawing ------------------------------------------------------------------------------------------------------


def _groups(sources: Sequence[str] | None, count: int) -> tuple[str, np.ndarray]:
    """What is drawn, and (C,) the number of the group that each clip is drawn with."""
    if sources is None or len({source for source in sources if source}) < ENOUGH_SOURCES:
        return "clip", np.arange(count)
    names = [source or i for i, source in enumerate(sources)]  # a number is the name of no source
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return "source", np.array([numbers[name] for name in names])


def _drawn(groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(G, R) float32: how often each group stands in each resample."""
    count = int(groups.max()) + 1
    random = np.random.default_rng(seed)
    often = np.empty((resamples, count), dtype=np.float32)
    for row in often:
        row[:] = np.bincount(random.integers(count, size=count), minlength=count)
    return np.ascontiguousarray(often.T)


def _affordable(size: int, resamples: int) -> int:
    return min(resamples, max(FEWEST, int(WORK / size)))


def _percentiles(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high), len(drawn))


def _reflected(value: float, drawn: np.ndarray) -> Interval:
    high, low = np.clip(2 * value - np.nanpercentile(drawn, [2.5, 97.5]), 0, 1)
    return Interval(value, min(float(low), value), max(float(high), value), len(drawn))


def _resampled_decisions(
    true: np.ndarray, given: np.ndarray, labels: int, groups: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(R,) accuracies and (R,) macro recalls, the latter over the labels that occur in the resample."""
    from scipy.sparse import coo_array

    shape = (labels, len(drawn))
    ones = np.ones(len(true))
    clips = coo_array((ones, (true, groups)), shape).tocsr() @ drawn  # (L, R) of each label
    right = coo_array((ones * (true == given), (true, groups)), shape).tocsr() @ drawn
    with np.errstate(invalid="ignore"):
        return right.sum(0) / clips.sum(0), np.nanmean(right / clips, axis=0)


def _resampled_map(targets: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) means over the labels that occur in the resample."""
    total, count = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for place in np.flatnonzero(targets.any(0)):
        column = _average_precisions(targets[:, [place]], scores[:, [place]], weights)[0]
        occurs = ~np.isnan(column)
        total[occurs] += column[occurs]
        count += occurs
    with np.errstate(invalid="ignore"):
        return total / count


def _average_precisions(targets: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(L, R): with each clip counted as often as ``weights`` (C, R) says."""
    found = np.full((targets.shape[1], weights.shape[1]), math.nan)
    for place in np.flatnonzero(targets.any(0)):
        order = np.argsort(-scores[:, place], kind="stable")
        hit, ranked = targets[order, place], scores[order, place]
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of each run of equal scores
        hits = np.flatnonzero(hit)
        runs = np.unique(np.searchsorted(last, hits))  # those that hold a clip with the label
        bounds = np.append(0, last[runs] + 1)  # (K + 1,) of parts that end with a run that holds a hit
        clips = _sums(weights, order[: bounds[-1]], bounds).cumsum(0)  # (K, R) down to the end of each part
        gained = _sums(weights, order[hits], np.searchsorted(hits, bounds))  # (K, R) hits in each part
        with np.errstate(invalid="ignore"):
            precision = np.where(clips > 0, gained.cumsum(0) / np.maximum(clips, 1e-9), 0)
            found[place] = (precision * gained).sum(0) / gained.sum(0)
    return found


def _sums(weights: np.ndarray, rows: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """(K, R) sums of the ``rows`` of (C, R) weights, from each of the (K + 1) bounds to the next. A sparse product, which is
    ten times faster than gathering the rows."""
    from scipy.sparse import csr_array

    shape = (len(bounds) - 1, len(weights))
    return csr_array((np.ones(len(rows), weights.dtype), rows, bounds), shape) @ weights
