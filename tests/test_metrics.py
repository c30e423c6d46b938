"""Metrics against scikit-learn and against drawing clip by clip; intervals that hold what they promise."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, confusion_matrix
from sklearn.metrics import precision_recall_fscore_support as per_class

from ssast_lab import metrics
from ssast_lab.metrics import MetricError, difference, over_seeds, score

LABELS = tuple("abcdef")


def draw(clips, labels=6, strength=1.2, seed=0, decimals=1):
    """Scores with many ties, as a classifier of some strength would give them."""
    random = np.random.default_rng(seed)
    targets = np.eye(labels)[random.integers(labels, size=clips)]
    return targets, np.round(random.standard_normal(targets.shape) + strength * targets, decimals)


def many(clips, labels=6, seed=0):
    """Several labels to a clip, or none."""
    random = np.random.default_rng(seed)
    targets = (random.random((clips, labels)) < 0.3).astype(np.float32)
    return targets, np.round(random.standard_normal(targets.shape) + targets, 1)


def test_single_labels_agree_with_scikit_learn():
    targets, scores = draw(300)
    found = score(targets, scores, LABELS, resamples=20)
    true, given = targets.argmax(1), scores.argmax(1)
    assert found.accuracy.value == pytest.approx(accuracy_score(true, given))
    assert found.macro_recall.value == pytest.approx(balanced_accuracy_score(true, given))
    assert np.array_equal(found.confusion, confusion_matrix(true, given))
    precision, recall, _, support = per_class(true, given)
    for place, row in enumerate(found.classes):
        assert row.label == LABELS[place]
        assert row[1:4] == pytest.approx((support[place], recall[place], precision[place]))
        assert row.average_precision == pytest.approx(average_precision_score(targets[:, place], scores[:, place]))
    assert found.mean_average_precision.value == pytest.approx(
        average_precision_score(targets, scores, average="macro")
    )


def test_several_labels_know_only_average_precision():
    targets, scores = many(200)
    found = score(targets, scores, LABELS, resamples=20)
    assert found.accuracy is found.macro_recall is found.confusion is None
    assert list(found.headlines) == ["mean_average_precision"]
    assert found.mean_average_precision.value == pytest.approx(
        average_precision_score(targets, scores, average="macro")
    )
    assert all(math.isnan(row.recall) and math.isnan(row.precision) for row in found.classes)
    assert "accuracy" not in str(found)


def test_labels_that_do_not_occur_count_for_nothing():
    targets, scores = draw(80, labels=5)
    wider = np.hstack([targets, np.zeros((80, 1))]), np.hstack([scores, np.full((80, 1), -9)])
    narrow, wide = score(targets, scores, LABELS[:5], seed=3), score(*wider, LABELS, seed=3)
    assert narrow.headlines == wide.headlines
    assert wide.classes[5][:2] == ("f", 0)
    assert math.isnan(wide.classes[5].recall)
    assert math.isnan(wide.classes[5].average_precision)
    (line,) = [line for line in str(wide).splitlines() if line.startswith("f ") and "–" in line]
    assert line.split() == ["f", "0", "–", "–", "–"]


def test_a_confusion_matrix_is_told_as_a_table_or_as_what_is_confused_most():
    targets, scores = draw(80, labels=5)
    found = score(targets, scores, LABELS[:5], resamples=20)
    rows = [line.split() for line in str(found).splitlines()[-5:]]
    assert [row[0] for row in rows] == list(LABELS[:5])
    assert [[int(cell) for cell in row[1:]] for row in rows] == found.confusion.tolist()
    labels = [f"label{number}" for number in range(20)]
    true, given = np.repeat(np.arange(20), 4), np.repeat(np.arange(20), 4)
    given[:3], given[40] = 7, 3  # three of four of the first are called the eighth
    many = score(np.eye(20)[true], np.eye(20)[given], labels, resamples=20)
    assert [line.split() for line in str(many).splitlines()[-2:]] == [
        ["label0", "label7", "3", "of", "4"],
        ["label10", "label3", "1", "of", "4"],
    ]


@pytest.mark.parametrize("sources", [None, 12])
def test_resampling_is_drawing_the_clips_again(sources):
    """Each resample's figures are those of a set in which clips stand as often as they, or their sources, were drawn."""
    targets, scores = draw(70, labels=3)
    names = None if sources is None else [f"s{i % sources}" for i in range(70)]
    unit, groups = metrics._groups(names, 70)
    assert unit == ("clip" if sources is None else "source")
    drawn = metrics._drawn(groups, 9, seed=5)
    assert drawn.shape == (sources or 70, 9)
    assert (drawn.sum(0) == (sources or 70)).all()
    accuracies, recalls = metrics._resampled_decisions(targets.argmax(1), scores.argmax(1), 3, groups, drawn)
    maps = metrics._resampled_map(targets > 0, scores, drawn[groups])
    for column in range(9):
        clips = np.repeat(np.arange(70), drawn[groups, column].astype(int))
        again = score(targets[clips], scores[clips], LABELS[:3], resamples=1)
        values = [value.value for value in again.headlines.values()]
        assert values == pytest.approx([accuracies[column], recalls[column], maps[column]], rel=1e-5)


def test_sources_widen_the_interval_of_clips_that_stand_or_fall_together():
    random = np.random.default_rng(0)
    right = np.repeat(random.random(20) < 0.6, 30)  # 20 voices, 30 clips of each
    targets = np.eye(2)[random.integers(2, size=600)]
    scores = np.where(right[:, None], targets, 1 - targets)
    voices = [f"voice {i // 30}" for i in range(600)]
    alone, together = score(targets, scores, "ab"), score(targets, scores, "ab", voices)
    width = [found.accuracy.high - found.accuracy.low for found in (alone, together)]
    assert width[1] / width[0] == pytest.approx(math.sqrt(30), rel=0.25)
    assert (alone.unit, together.unit) == ("clip", "source")
    few = score(targets, scores, "ab", [f"{i // 150}" for i in range(600)])
    assert few.unit == "clip", "four sources are too few to draw"
    assert few.accuracy == alone.accuracy


def test_a_clip_of_unknown_source_is_drawn_alone():
    found = score(*draw(8), LABELS, ["a", "", "b", "a", "", "c", "d", "e"], resamples=10)
    assert found.unit == "source"
    assert found.groups.tolist() == [0, 1, 2, 0, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "least"), [("accuracy", 0.9), ("macro_recall", 0.9), ("mean_average_precision", 0.85)]
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(name, least):
    truth = score(*draw(60_000, decimals=4), LABELS, resamples=1).headlines[name].value
    held = [
        interval.low <= truth <= interval.high
        for seed in range(150)
        for interval in [score(*draw(120, seed=seed, decimals=4), LABELS, resamples=200).headlines[name]]
    ]
    assert least <= np.mean(held) < 1


def test_an_interval_holds_its_figure():
    """Rare labels: the figure is so much too high that its reflected percentiles all lie below it."""
    random = np.random.default_rng(0)
    targets = random.random((3000, 150)) < 0.01
    found = score(targets, random.standard_normal(targets.shape) + targets, [str(i) for i in range(150)], resamples=200)
    value, low, high, resamples = found.mean_average_precision
    drawn = metrics._resampled_map(found.targets, found.scores, metrics._drawn(found.groups, 200, 0))
    assert 2 * value - np.percentile(drawn, 2.5) < value
    assert low < value == high
    assert resamples == 200


def test_the_same_seed_gives_the_same_interval():
    data = draw(100)
    one, same, other = (score(*data, LABELS, resamples=100, seed=seed).headlines for seed in (1, 1, 2))
    assert one == same
    assert one["accuracy"].value == other["accuracy"].value
    assert one != other


# --- comparison ---------------------------------------------------------------------------------------------------


def test_a_pair_is_told_apart_better_than_its_intervals_tell():
    targets, scores = draw(400, decimals=4)
    better = scores + 0.2 * targets
    one, other = score(targets, better, LABELS), score(targets, scores, LABELS)
    assert one.accuracy.low < other.accuracy.high, "by themselves they overlap"
    gained = difference(one, other)
    for name, interval in gained._asdict().items():
        assert interval.value == pytest.approx(one.headlines[name].value - other.headlines[name].value)
        assert 0 < interval.low <= interval.value <= interval.high
    lost = difference(other, one)
    assert lost.accuracy[:3] == pytest.approx([-gained.accuracy[i] for i in (0, 2, 1)])
    assert str(gained).count("+") == 9


def test_nothing_is_gained_on_oneself():
    for make in (draw, many):
        found = score(*make(60), LABELS)
        assert all(interval is None or interval[:3] == (0, 0, 0) for interval in difference(found, found))


def test_only_the_same_clips_are_compared():
    targets, scores = draw(60)
    found = score(targets, scores, LABELS)
    with pytest.raises(MetricError, match="same clips"):
        difference(found, score(targets[::-1], scores, LABELS))
    with pytest.raises(MetricError, match="same sources"):
        difference(found, score(targets, scores, LABELS, [str(i % 6) for i in range(60)]))


def test_seeds_have_a_mean_and_a_spread():
    runs = [score(*draw(100, seed=seed), LABELS, resamples=10) for seed in range(4)]
    spread = over_seeds(runs)
    accuracies = [run.accuracy.value for run in runs]
    assert spread["accuracy"].values == tuple(accuracies)
    assert spread["accuracy"].mean == pytest.approx(np.mean(accuracies))
    assert spread["accuracy"].deviation == pytest.approx(np.std(accuracies, ddof=1))
    assert list(spread) == list(runs[0].headlines)
    assert math.isnan(over_seeds(runs[:1])["accuracy"].deviation)
    with pytest.raises(MetricError, match="no run"):
        over_seeds([])


# --- size and bad input -------------------------------------------------------------------------------------------


def test_large_sets_are_drawn_fewer_times_but_often_enough():
    assert metrics._affordable(5000 * 50, 1000) == 1000
    assert metrics.FEWEST < metrics._affordable(20_000 * 527, 1000) < 500
    assert metrics._affordable(150_000 * 1251, 1000) == metrics.FEWEST
    assert metrics._affordable(20_000 * 527, 50) == 50


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, s: (t[:5], s, LABELS), "do not fit"),
        (lambda t, s: (t, s, LABELS[:5]), "6 and 5 labels|5 labels"),
        (lambda t, s: (t[:0], s[:0], LABELS), "at least one clip"),
        (lambda t, s: (t, np.where(np.arange(6) == 2, np.nan, s), LABELS), "clip 0 for 'c' is nan"),
        (lambda t, s: (t * 0, s, LABELS), "No clip has a label"),
        (lambda t, s: (t, s, LABELS, ["x"]), "1 sources do not fit 9 clips"),
    ],
)
def test_what_cannot_be_scored_says_why(change, words):
    with pytest.raises(MetricError, match=words):
        score(*change(*draw(9)))
