"""A probe solves what is linearly separable, finds nothing in chance, chooses without the test clips, and repeats itself."""

import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from ssast_lab import checkpoint, data
from ssast_lab.config import ModelConfig
from ssast_lab.data import labelled
from ssast_lab.data.labelled import LabelError, LabelledSet
from ssast_lab.measuring import probe
from ssast_lab.measuring.probe import ProbeError, linear_probe, probe_task
from ssast_lab.measuring.upstreams import upstream
from ssast_lab.model import SSAST

RATE, WIDTH = 16_000, 6


class Given:
    """An upstream whose embeddings are written into the sounds: sample 10 (d + WIDTH l) holds number d of layer l."""

    name, key, rate = "given", "0" * 64, 16_000

    def __init__(self, layers):
        self.layers, self.embedded = layers, 0

    def to(self, device):
        return self

    def embed(self, waveforms, pooling):
        self.embedded += len(waveforms)
        return waveforms[:, : 10 * WIDTH * self.layers : 10].unflatten(1, (self.layers, WIDTH))


def make(folder, embeddings, classes, sources=None, folds=None, names=None):
    """(C, layers, WIDTH) embeddings and (C,) classes, or (C, L) targets, as a labelled set of sound files."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(embeddings)
    clips = []
    for number, embedding in enumerate(embeddings):
        wave = np.zeros(800, np.float32)
        wave[: 10 * embedding.size : 10] = embedding.ravel()
        soundfile.write(folder / f"{number:03}.wav", wave, RATE, subtype="FLOAT")
        clips.append(data.Clip(str(folder / f"{number:03}.wav")))
    targets = np.eye(max(classes) + 1)[classes] if np.ndim(classes) == 1 else np.asarray(classes)
    names = names or tuple("abcdefgh"[: targets.shape[1]])
    return LabelledSet(
        names, tuple(clips), targets.astype(np.float32), tuple(sources or [""] * count), tuple(folds or [""] * count)
    )


@pytest.fixture
def random():
    return np.random.default_rng(8)


def apart(random, classes, layers=3, good=1, distance=8.0):
    """Embeddings whose classes lie apart in one layer, at different scales and offsets of their values."""
    found = random.standard_normal((len(classes), layers, WIDTH))
    found[:, good, :][np.arange(len(classes)), np.asarray(classes) % WIDTH] += distance
    return found * 10.0 ** np.arange(-3, WIDTH - 3) + 5


FOLDS = ["train", "train", "train", "valid", "test"]


def test_what_lies_apart_is_told_apart_and_the_layer_found(tmp_path, random):
    classes = [number % 4 for number in range(120)]
    folds = [FOLDS[number // 4 % 5] for number in range(120)]
    task = make(tmp_path, apart(random, classes), classes, folds=folds)
    result = probe_task(Given(3), task, device="cpu")
    assert result.layer == 1
    assert result.scores.accuracy.value == 1
    assert result.scores.targets.shape == (24, 4)
    assert result.choices == (probe.Choice(1, result.regularisation, 1.0),)
    assert result.regularisation in probe.GRID
    assert "given: mean of layer 1 (of 0 to 2)" in str(result)
    # Without a validation fold the layer is found by cross-validation.
    again = linear_probe(Given(3), task.where("train"), task.where("test"), device="cpu")
    assert (again.layer, again.scores.accuracy.value) == (1, 1)
    other = linear_probe(Given(3), task.where("train"), task.where("test"), layer=0, device="cpu")
    assert other.layer == 0
    assert other.scores.accuracy.value < 0.6


def test_random_labels_give_chance(tmp_path, random):
    classes = random.permutation(np.arange(240) % 3)
    folds = [FOLDS[number % 5 if number % 5 != 1 else 4] for number in range(240)]
    result = probe_task(Given(2), make(tmp_path, random.standard_normal((240, 2, WIDTH)), classes, folds=folds))
    assert result.scores.accuracy.low < 1 / 3 < result.scores.accuracy.high
    assert result.scores.accuracy.value < 0.5


def test_the_test_clips_choose_nothing(tmp_path, random):
    classes = np.arange(100) % 2
    folds = np.array([FOLDS[number // 2 % 5] for number in range(100)])
    embeddings = apart(random, classes, layers=2, good=0)
    better = apart(random, classes, layers=2, good=1, distance=80.0)
    embeddings[folds == "test", 1] = better[folds == "test", 1]
    assert probe_task(Given(2), make(tmp_path, embeddings, classes, folds=list(folds))).layer == 0
    test = {
        f"t{fold}": probe_task(Given(2), make(tmp_path / fold, embeddings, classes, folds=list(folds))) for fold in "ab"
    }
    assert test["ta"].choices == test["tb"].choices


def test_cross_validation_keeps_a_source_on_one_side(tmp_path, random):
    """Layer 0 knows the source, which tells the class of the training clips but of no others; layer 1 the class, dimly."""
    sources = np.repeat(np.arange(30), 6)
    classes = random.permutation(np.arange(30) % 3)[sources]
    of_source = 10 * random.standard_normal((30, WIDTH))
    embeddings = np.stack((of_source[sources], random.standard_normal((180, WIDTH))), 1)
    embeddings += 0.1 * random.standard_normal(embeddings.shape)
    embeddings[np.arange(180), 1, classes] += 2.0
    folds = ["train" if source < 24 else "test" for source in sources]
    task = make(tmp_path, embeddings, classes, [f"s{source}" for source in sources], folds)
    for rows, held in probe._cross_validation(task.where("train"), seed=0):
        assert not {task.sources[row] for row in rows} & {task.sources[row] for row in held}
    assert probe_task(Given(2), task).layer == 1


@pytest.mark.parametrize("several", [False, True])
def test_every_clip_is_chosen_by_once(tmp_path, random, several):
    targets = np.eye(3)[np.arange(40) % 3]
    if several:
        targets[:5, 0] = 1
    for sources in ([""] * 40, ["one"] * 40, ["one"] * 20 + ["two"] * 20, [f"s{n // 4}" for n in range(40)]):
        task = make(tmp_path, random.standard_normal((40, 1, WIDTH)), targets, sources)
        splits = probe._cross_validation(task, seed=1)
        assert sorted(row for _, held in splits for row in held) == list(range(40))
        for rows, held in splits:
            assert sorted([*rows, *held]) == list(range(40))


def test_numbered_folds_are_left_out_in_turn(tmp_path, random):
    classes = np.arange(100) % 4
    folds = [str(number // 4 % 5 + 1) for number in range(100)]
    task = make(tmp_path, apart(random, classes, distance=4.0), classes, folds=folds)
    given = Given(3)
    result = probe_task(given, task)
    assert given.embedded == 100
    assert len(result.choices) == 5
    assert {choice.layer for choice in result.choices} == {1}
    assert len(result.scores.targets) == 100
    # All clips together, each scored by the probe that did not see its fold.
    right = 0.0
    for fold in "12345":
        rest = task.where(*(other for other in "12345" if other != fold))
        part = linear_probe(Given(3), rest, task.where(fold))
        right += part.scores.accuracy.value * 20
    assert result.scores.accuracy.value == pytest.approx(right / 100)


def test_a_set_without_folds_is_divided_as_everywhere(tmp_path, random):
    classes = np.arange(60) % 3
    task = make(tmp_path, apart(random, classes, distance=4.0), classes)
    (split,) = labelled.splits(task)
    result, expected = probe_task(Given(3), task), linear_probe(Given(3), split.train, split.test, split.valid)
    assert result.choices == expected.choices
    assert np.array_equal(result.scores.scores, expected.scores.scores)


def test_several_labels_at_once(tmp_path, random):
    targets = (random.random((150, 3)) < 0.4).astype(float)
    targets[targets.sum(1) == 0, 0] = 1
    embeddings = random.standard_normal((150, 2, WIDTH))
    embeddings[:, 1, :3] += 8 * targets
    folds = [FOLDS[number % 5] for number in range(150)]
    result = probe_task(Given(2), make(tmp_path, embeddings, targets, folds=folds))
    assert result.layer == 1
    assert result.scores.accuracy is None
    assert result.scores.mean_average_precision.value > 0.99


def test_a_label_that_all_or_none_have_is_no_obstacle(tmp_path, random):
    targets = np.zeros((60, 4))
    targets[np.arange(60), np.arange(60) % 2] = 1
    targets[:, 2] = 1
    embeddings = apart(random, np.arange(60) % 2, layers=1, good=0)
    task = make(tmp_path, embeddings, targets, folds=["train" if n % 3 else "test" for n in range(60)])
    before = warnings.filters[:]
    result = probe_task(Given(1), task)
    assert result.scores.mean_average_precision.value == 1
    assert warnings.filters == before


def test_no_thread_changes_what_is_warned_of(tmp_path, random, monkeypatch):
    """It would change it for all others, and put back what one of them had set."""
    changed, enter = [], warnings.catch_warnings.__enter__

    def watched(self):
        changed.append(threading.current_thread() is threading.main_thread())
        return enter(self)

    monkeypatch.setattr(probe, "warnings", SimpleNamespace(**vars(warnings)))
    monkeypatch.setattr(
        probe.warnings, "catch_warnings", type("Watched", (warnings.catch_warnings,), {"__enter__": watched})
    )
    targets = np.stack([np.arange(60) % 2, np.ones(60)], 1)
    task = make(tmp_path, apart(random, np.arange(60) % 2, layers=2, good=0), targets)
    probe_task(Given(2), task)
    assert changed
    assert all(changed)


def test_rare_classes_and_constant_values_bring_no_warning(tmp_path, random):
    classes = np.array([0] * 30 + [1] * 2 + [2] * 3)
    embeddings = apart(random, classes, layers=2)
    embeddings[:, :, 4] = 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train = make(tmp_path / "train", embeddings, classes)
        test = make(tmp_path / "test", apart(random, classes, layers=2), classes)
        assert linear_probe(Given(2), train, test).scores.accuracy.value > 0.8


def test_probabilities_are_those_of_scikit_learn(tmp_path, random):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = np.arange(60) % 3
    x = apart(random, classes, layers=1, good=0, distance=1.0).astype(np.float32)
    task = make(tmp_path, x, classes, folds=["train"] * 40 + ["test"] * 20)
    result = probe_task(Given(1), task)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=result.regularisation, max_iter=10_000))
    model.fit(x[:40, 0].astype(float), classes[:40])
    np.testing.assert_allclose(result.scores.scores, model.predict_proba(x[40:, 0].astype(float)), atol=1e-3)


@pytest.mark.filterwarnings("ignore:Label .* is present in all training examples:UserWarning")  # as within a probe
def test_a_label_that_no_training_clip_has_gets_no_probability(random):
    x, targets = random.standard_normal((30, WIDTH)), np.eye(4)[np.arange(30) % 2]
    for rows in (targets, targets[::2]):  # two labels, and a single one
        for multi in (False, True):
            probabilities = probe.probabilities_of(x[: len(rows)], rows, x, 0.1, multi)
            assert (probabilities[:, 2:] == 0).all()
            np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)


def test_the_same_call_gives_the_same_result(tmp_path, random):
    classes = np.arange(90) % 3
    task = make(tmp_path, apart(random, classes, distance=2.0), classes, folds=["train"] * 60 + ["test"] * 30)
    one, other = probe_task(Given(3), task, seed=4), probe_task(Given(3), task, seed=4)
    assert one.choices == other.choices
    assert np.array_equal(one.scores.scores, other.scores.scores)
    assert one.scores.headlines == other.scores.headlines


def test_a_model_hears_what_scratch_and_cache_have_no_part_in(tmp_path):
    """High and low tones from files, by a small random model: the whole way, twice, the second time from the cache."""
    random = np.random.default_rng(2)
    for number in range(40):
        t = np.arange(int(random.uniform(0.4, 1.1) * RATE)) / RATE
        pitch = (300 if number % 2 else 2500) * random.uniform(0.8, 1.25)
        sound = 0.2 * np.sin(2 * np.pi * pitch * t) + 0.01 * random.standard_normal(len(t))
        folder = tmp_path / ("train" if number < 28 else "test") / ("low" if number % 2 else "high")
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{number}.flac", sound, RATE)
    (tmp_path / "cache").mkdir()
    torch.manual_seed(0)
    model = checkpoint.save(SSAST(ModelConfig(32, 2, 2, 64)), tmp_path / "cache" / "model")
    task = labelled.read_labelled(tmp_path / "train")
    test = labelled.read_labelled(tmp_path / "test", labels=task.labels)
    first = linear_probe(upstream(model), task, test, cache=tmp_path / "cache" / "embeddings")
    again = linear_probe(upstream(model), task, test, cache=tmp_path / "cache" / "embeddings")
    assert first.scores.accuracy.value > 0.9
    assert np.array_equal(first.scores.scores, again.scores.scores)
    assert linear_probe(upstream("logmel"), task, test).scores.accuracy.value > 0.9


def test_what_cannot_be_probed_is_said(tmp_path, random):
    classes = np.arange(20) % 2
    task = make(tmp_path, random.standard_normal((20, 1, WIDTH)), classes)
    untested = make(tmp_path, random.standard_normal((20, 1, WIDTH)), classes, folds=["train", "valid"] * 10)
    with pytest.raises(LabelError, match="folds of the clips are train, valid: use train and test"):
        probe_task(Given(1), untested)
    with pytest.raises(ProbeError, match=r'"best" or a number from 0 to 0, not 1'):
        linear_probe(Given(1), task, task, layer=1)
    with pytest.raises(ProbeError, match="whole number from 0, not -1"):
        linear_probe(Given(1), task, task, seed=-1)
    leaking = make(
        tmp_path, random.standard_normal((20, 1, WIDTH)), classes, ["x"] * 20, ["train", "train", "test", "test"] * 5
    )
    given = Given(1)
    with pytest.raises(LabelError, match="leaks"):
        probe_task(given, leaking)
    assert given.embedded == 0
