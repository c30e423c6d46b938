"""Fine-tuning: it learns, varies sounds as it says, stops and resumes exactly, and refuses what cannot give honest figures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, here

from ssast_lab import checkpoint, data
from ssast_lab.config import (
    AudioConfig,
    ConfigError,
    FineTuneConfig,
    LabelledConfig,
    ModelConfig,
    TuningConfig,
    finetune_config,
)
from ssast_lab.data import labelled
from ssast_lab.data.labelled import LabelError
from ssast_lab.learning import classify
from ssast_lab.learning.run import Run, RunError
from ssast_lab.learning.variation import LabelledPlan, vary
from ssast_lab.model import SSAST, Classifier

MODEL = ModelConfig(width=32, depth=2, heads=2, frames=64)


def write(path: Path, pitch: float, seconds: float, random) -> None:
    t = np.arange(round(seconds * RATE)) / RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.3 * np.sin(2 * np.pi * pitch * t) + 0.01 * random.standard_normal(len(t))
    soundfile.write(path, tone, RATE, subtype="PCM_16")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Low, middle and high tones from nine sources, three of them in each fold; two labels in one clip there are none."""
    folder, random = tmp_path_factory.mktemp("task"), np.random.default_rng(0)
    rows = ["path,label,source,fold"]
    for number in range(54):
        fold = ("train", "train", "train", "valid", "test", "test")[number % 6]
        label, pitch = (("low", 200), ("middle", 800), ("high", 3000))[number // 6 % 3]
        write(folder / f"{number}.wav", pitch * random.uniform(0.97, 1.03), random.uniform(0.3, 0.9), random)
        rows.append(f"{number}.wav,{label},{fold}-{number % 3},{fold}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(3)
    return checkpoint.save(SSAST(MODEL), tmp_path_factory.mktemp("model") / "small")


def asked(model, task, **training) -> FineTuneConfig:
    settings = dict(batch=8, learning_rate=3e-3, warmup=2, epochs=6)
    return FineTuneConfig(str(model), data=LabelledConfig(str(task)), training=TuningConfig(**settings | training))


VARIED = dict(mixup=0.5, frequency_mask=12, time_mask=8, noise=True, balanced=True, average_from=2)


def test_it_learns_and_the_run_loads_as_the_classifier_with_its_labels(model, task, tmp_path):
    steps = list(classify.fine_tune(asked(model, task, epochs=12), here(tmp_path / "run")))
    assert len(steps) == 12 * 4
    assert [step.step for step in steps if step.evaluation] == [*range(4, 49, 4)]
    assert steps[-1].evaluation.clips == 9
    (judgement,) = steps[-1].judgements
    assert judgement.weights == "best"
    assert judgement.scores.accuracy.value > 0.7
    assert all(step.judgements == () for step in steps[:-1])

    loaded = checkpoint.load(tmp_path / "run")
    assert isinstance(loaded, Classifier)
    assert loaded.config.labels == ("high", "low", "middle")
    test = labelled.read_labelled(task).where("test")
    assert np.allclose(classify.logits(loaded, test.clips), judgement.scores.scores, atol=1e-5)
    assert np.allclose(classify.logits(loaded, test.clips, batch=5), judgement.scores.scores, atol=1e-5)
    (told,) = json.loads((tmp_path / "run" / "report.json").read_text())
    assert told["accuracy"]["value"] == judgement.scores.accuracy.value
    assert told["clips"] == 18
    best = max((s for s in steps if s.evaluation), key=lambda s: (s.evaluation.accuracy, -s.evaluation.loss))
    assert judgement.step == told["step"] == best.step
    kept = Run(tmp_path / "run").best()
    assert kept == {
        "step": best.step,
        "loss": best.evaluation.loss,
        "by": "accuracy",
        "value": best.evaluation.accuracy,
    }
    assert told["chosen"].startswith(f"the highest accuracy ({best.evaluation.accuracy:.3f}) on the 9 validation clips")
    assert told["split"].startswith("27 clips of 3 sources to learn from, 9 clips of 1 source to choose by, 18 clips")
    assert told["split"].endswith("divided by the folds that the set names")

    again = replace(asked(model, task, epochs=1), model=str(tmp_path / "run"))  # and can be fine-tuned itself
    assert list(classify.fine_tune(again, here(tmp_path / "again")))[-1].judgements[0].scores.accuracy.value > 0.6


def test_a_resumed_run_is_the_undisturbed_run(model, task, tmp_path):
    """With all that is drawn at random, on files and in memory, with workers and without."""
    config = asked(model, task, **VARIED)
    whole = list(classify.fine_tune(config, here(tmp_path / "whole")))
    run = here(tmp_path / "halves", in_memory=True)
    steps = classify.fine_tune(config, run)
    first = [next(steps) for _ in range(10)]
    steps.close()
    second = list(classify.fine_tune(config, replace(run, resume=True, in_memory=False, workers=1)))
    assert [step.loss for step in first + second] == [step.loss for step in whole]
    assert {judgement.weights for judgement in whole[-1].judgements} == {"best", "averaged"}
    for one, other in zip(whole[-1].judgements, second[-1].judgements, strict=True):
        assert np.array_equal(one.scores.scores, other.scores.scores)
    for name in ("", "averaged"):
        one, other = (checkpoint.load(tmp_path / folder / name).state_dict() for folder in ("whole", "halves"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_averaged_weights_are_the_mean_of_those_epochs(model, task, tmp_path):
    steps = classify.fine_tune(asked(model, task, average_from=4), here(tmp_path / "run", keep=10))
    list(steps)
    run = Run(tmp_path / "run")
    epochs = [run.read_weights(step) for step in (16, 20, 24)]
    averaged = checkpoint.load(tmp_path / "run" / "averaged").state_dict()
    for name, value in averaged.items():
        assert torch.allclose(value, torch.stack([epoch[name] for epoch in epochs]).mean(0), atol=1e-6)


def test_without_a_validation_set_nothing_is_chosen(model, task, tmp_path):
    """The test clips may watch, but the last weights are judged, whatever the curve did."""
    rows = (task / "task.csv").read_text().replace(",valid\n", ",train\n")
    table = tmp_path / "table.csv"
    table.write_text(rows.replace("\n", f"\n{task}/").removesuffix(f"{task}/"))
    steps = list(classify.fine_tune(asked(model, table, epochs=3), here(tmp_path / "run")))
    assert steps[-1].evaluation.clips == 18
    assert steps[-1].judgements[0].weights == "last"
    assert steps[-1].judgements[0].step == steps[-1].step
    assert Run(tmp_path / "run").best() is None


def plan(task, **settings) -> tuple[labelled.LabelledSet, LabelledPlan]:
    train = labelled.read_labelled(task).where("train")
    return train, LabelledPlan(data.Files(train.clips, 16_000), 8, 5, targets=train.targets, **settings)


def test_mixup_mixes_sounds_and_labels_in_one_proportion(task):
    train, mixing = plan(task, mixup=0.7)
    _, plain = plan(task)
    touched, shares = 0, []
    for step in range(30):
        mixed, own = mixing[step], plain[step]
        assert torch.equal(mixing[step].waveforms, mixed.waveforms)
        assert torch.allclose(mixed.targets.sum(1), torch.ones(8))
        assert torch.equal(own.targets, torch.from_numpy(train.targets)[own.indices])
        assert torch.equal(mixed.lengths, own.lengths)
        for row in range(8):
            if torch.equal(mixed.waveforms[row], own.waveforms[row]):
                assert torch.equal(mixed.targets[row], own.targets[row])
                continue
            touched += 1
            label = int(own.targets[row].argmax())
            share = float(mixed.targets[row, label])
            assert not mixed.waveforms[row, own.lengths[row] :].any()
            if share < 1:  # of another label: its tone is another, and the product tells how much of the own is left
                shares.append(share)
                a, m = (x.waveforms[row].double() for x in (own, mixed))
                a = a[: own.lengths[row]] - a[: own.lengths[row]].mean()
                assert float(a @ m[: len(a)] / (a @ a)) == pytest.approx(share, abs=0.08)
    assert 0.6 < touched / 240 < 0.8
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)
    assert np.std(shares) == pytest.approx((10 * 10 / (20**2 * 21)) ** 0.5, abs=0.03)  # of Beta(10, 10)


def test_what_varies_a_spectrogram(generator):
    features, fbank = AudioConfig(), torch.randn(3, 64, 128, generator=generator)
    spans = torch.tensor([[10, 20, 5, 9], [0, 0, 0, 0], [127, 128, 0, 64]])
    turned, loud, seeds = torch.tensor([3, -10, 0]), torch.tensor([0.1, 0.0, 0.0]), torch.tensor([1, 2, 3])
    quiet = vary(fbank, features, False, spans, turned, loud, seeds)
    silence = (0 - features.mean) / (2 * features.std)
    expected = fbank.clone()
    expected[0, :, 10:20] = expected[0, 5:9] = expected[2] = silence
    assert torch.allclose(quiet, expected)
    assert vary(fbank.to("meta"), features, False, spans, turned, loud, seeds).is_meta
    noisy = vary(fbank, features, True, spans, turned, loud, seeds)
    assert torch.allclose(noisy[1], torch.roll(quiet[1], -10, 0))
    grain = noisy[0] - torch.roll(quiet[0], 3, 0)
    assert 0 <= grain.min() < grain.max() <= 0.1 + 1e-6
    assert float(grain.mean()) == pytest.approx(0.05, abs=0.002)
    assert torch.equal(noisy, vary(fbank, features, True, spans, turned, loud, seeds))


def test_what_is_hidden_is_as_wide_and_lies_where_the_recipe_says(model, task):
    tuning = classify.FineTuning(asked(model, task, frequency_mask=30, time_mask=20))
    spans = np.concatenate([tuning.draw(step)[0].numpy() for step in range(400)])
    for column, most, room in ((0, 30, 128), (2, 20, 64)):
        width = spans[:, column + 1] - spans[:, column]
        assert (width.min(), width.max()) == (0, most - 1)
        assert width.mean() == pytest.approx(most / 2 - 0.5, abs=0.5)
        assert spans[:, column].min() >= 0
        assert room - 2 <= spans[:, column + 1].max() <= room


def test_balanced_drawing_hears_every_label_equally_often(task):
    train, _ = plan(task)
    rare = train.take([i for i in range(len(train)) if train.targets[i, 0] or i % 3 == 0])
    chances = (rare.targets @ (1 / rare.targets.sum(0))).cumsum()
    balanced = LabelledPlan(data.Files(rare.clips, 4000), 30, 5, targets=rare.targets, chances=chances)
    assert rare.targets.sum(0).max() > 2 * rare.targets.sum(0).min()
    drawn = torch.stack([balanced[step].targets.mean(0) for step in range(20)]).mean(0)
    assert torch.allclose(drawn, torch.full((3,), 1 / 3), atol=0.05)


def test_the_window_is_what_most_clips_fit_into(model, task, tmp_path):
    """Nine of ten, in whole patches, and never more than the model's own."""
    for name, seconds, frames in (("short", 0.3, 32), ("some long", 0.5, 48), ("long", 5, 64)):
        random, rows = np.random.default_rng(2), ["path,label,fold"]
        for number in range(24):
            last = 2 if name == "some long" and number < 1 else seconds
            write(tmp_path / name / f"{number}.wav", 300 + 9 * number, last, random)
            rows.append(f"{name}/{number}.wav,{number % 2},{'test' if number > 19 else 'train'}")
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
        assert classify.FineTuning(asked(model, tmp_path / f"{name}.csv")).model.frames == frames
    config = replace(asked(model, task), frames=128)
    assert classify.FineTuning(config).model.frames == 128


def test_random_weights_are_asked_for_by_name(model, task):
    trained = classify.FineTuning(asked(model, task)).classifier.encoder.state_dict()
    scratch = classify.FineTuning(asked(f"scratch:{model}", task)).classifier.encoder.state_dict()
    own = checkpoint.load(model).encoder.state_dict()
    assert all(torch.equal(trained[name], own[name]) for name in own)
    assert not torch.equal(scratch["blocks.0.mlp.0.weight"], own["blocks.0.mlp.0.weight"])
    assert {name: value.shape for name, value in scratch.items()} == {name: value.shape for name, value in own.items()}


def test_several_labels_are_learned_with_bce(model, task, tmp_path):
    rows = ["path,label,fold"]
    random = np.random.default_rng(1)
    for number in range(48):
        low, high = number % 4 in (0, 2), number % 4 in (0, 1)
        t = np.arange(RATE // 2) / RATE
        tone = low * np.sin(2 * np.pi * 300 * t) + high * np.sin(2 * np.pi * 3000 * t)
        soundfile.write(tmp_path / f"{number}.wav", 0.2 * tone + 0.01 * random.standard_normal(len(t)), RATE)
        labels = ";".join(["any"] + ["low"] * low + ["high"] * high)
        rows.append(f"{number}.wav,{labels},{'test' if number >= 36 else 'train'}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    config = asked(model, tmp_path / "table.csv", epochs=10, mixup=0.3)
    last = list(classify.fine_tune(config, here(tmp_path / "run")))[-1]
    assert classify.FineTuning(config).loss == "bce"
    assert last.judgements[0].scores.accuracy is None
    assert last.judgements[0].scores.mean_average_precision.value > 0.9
    assert np.isnan(last.evaluation.accuracy)
    assert np.isnan(Run(tmp_path / "run").metrics()[-1]["held_out_accuracy"])
    Run(tmp_path / "run").export(tmp_path / "alone", {})
    written = [*tmp_path.glob("run/*.json"), *tmp_path.glob("*/**/config.json"), tmp_path / "run" / "metrics.jsonl"]
    for path in written:  # figures that are not known are null, as JSON has no NaN
        for text in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            json.loads(text, parse_constant=lambda name, path=path: pytest.fail(f"{path} has {name}"))
    assert {"report.json", "config.json"} <= {path.name for path in written}
    with pytest.raises(LabelError, match="several labels or none, which cross-entropy cannot learn"):
        classify.FineTuning(asked(model, tmp_path / "table.csv", loss="ce"))


def test_what_cannot_be_is_said_before_anything_is_written(model, task, tmp_path):
    run = here(tmp_path / "run")
    small = tmp_path / "small.csv"
    small.write_text("path,label\n" + "".join(f"{task}/{number}.wav,{number // 6 % 3}\n" for number in range(6, 15)))
    untested = tmp_path / "untested.csv"
    untested.write_text((task / "task.csv").read_text().replace(",test\n", ",valid\n"))
    for config, error, words in (
        (asked(model, tmp_path / "nowhere"), LabelError, "no labelled set at"),
        (asked(model, ""), LabelError, "nothing to learn from"),
        (asked(model, small), ConfigError, "do not fill a batch of 8"),
        (asked(model, untested), LabelError, "folds of the clips are train, valid: use train and test"),
        (asked(tmp_path / "no model", task), checkpoint.CheckpointError, "There is no model"),
        (replace(asked(model, task), stride=(128, 1)), ConfigError, "leaves gaps between the 16x16 patches"),
        (replace(asked(model, task), stride=(0, 10)), ConfigError, "stride"),
        (replace(asked(model, task), std=-1.0), ConfigError, "std positive"),
        (replace(asked(model, task), data=LabelledConfig(str(task), fold="3")), LabelError, "no fold '3' to test"),
    ):
        with pytest.raises(error, match=words):
            next(classify.fine_tune(config, run))
        assert not (tmp_path / "run").exists()
    list(classify.fine_tune(asked(model, task, epochs=1), run))
    with pytest.raises(RunError, match=r"another configuration: training\.mixup was 0\.0 and is now 0\.3"):
        next(classify.fine_tune(asked(model, task, epochs=1, mixup=0.3), replace(run, resume=True)))


def test_sets_of_their_own_stand_for_the_folds_of_the_training_set(task, tmp_path):
    """What names no set of its own is the fold of the training set, and the rest of that is not trained on."""
    other = tmp_path / "other.csv"
    other.write_text(f"path,label\n{task}/0.wav,low\n{task}/6.wav,middle\n{task}/12.wav,high\n")
    whole = labelled.read_labelled(task)
    folds = [{clip.path for clip in whole.where(fold).clips} for fold in ("train", "valid", "test")]
    strange = {f"{task}/{number}.wav" for number in (0, 6, 12)}
    own = tmp_path / "own.csv"  # of the same clips, without those of the other set
    own.write_text("".join(f"{task}/{line}" if line[0].isdigit() else line
                           for line in (task / "task.csv").read_text().splitlines(keepends=True)
                           if line.partition(".")[0] not in ("0", "6", "12")))  # fmt: skip
    train, valid, test = folds[0] - strange, folds[1], folds[2]
    for more, expected in (
        (dict(valid=str(other)), (train, strange, test)),
        (dict(test=str(other)), (train, valid, strange)),
        ({}, (train, valid, test)),
    ):
        split = classify.read_split(LabelledConfig(str(own), **more))
        assert tuple({clip.path for clip in part.clips} for part in split.parts) == expected
        assert {part.labels for part in split.parts} == {("high", "low", "middle")}
    unfolded = tmp_path / "unfolded.csv"
    unfolded.write_text(
        "path,label\n" + "".join(f"{task}/{n}.wav,{('low', 'middle', 'high')[n // 6 % 3]}\n" for n in range(24, 54))
    )
    split = classify.read_split(LabelledConfig(str(unfolded), test=str(other)))
    assert [len(part) for part in split.parts] == [30, 0, 3]
    with pytest.raises(LabelError, match="has no fold test to judge them by: name a test set too"):
        classify.read_split(LabelledConfig(str(unfolded), valid=str(other)))


@pytest.mark.parametrize("kind", ["patch", "frame"])
@pytest.mark.parametrize("recipe", ["as20k", "as2m", "esc50", "speechcommands", "ks1", "sid", "er", "small"])
def test_every_recipe_makes_a_classifier(recipe, kind):
    config = finetune_config(f"{recipe}-{kind}", train="somewhere")
    changes = {name: value for name in ("frames", "stride") if (value := getattr(config, name))}
    classifier = Classifier.from_pretrained(checkpoint.load(config.model), ("a", "b"), **changes)
    assert classifier(torch.randn(1, classifier.config.frames, 128)).shape == (1, 2)
    if recipe == "esc50":
        assert classifier.config.grid.count == (12 * 50 if kind == "patch" else 511)
    with pytest.raises(ConfigError, match='names are like "esc50-patch"'):
        finetune_config(f"{recipe}-{kind}-3")


def test_all_broken_clips_to_judge_by_are_named_before_anything_is_trained(model, task, tmp_path):
    broken = shutil.copytree(task, tmp_path / "task")
    for number, content in ((3, b""), (4, b"no sound" * 50), (11, (task / "11.wav").read_bytes()[:60])):
        (broken / f"{number}.wav").write_bytes(content)
    with pytest.raises(LabelError, match=r"^3 of the 27 clips to judge by cannot be read: ") as caught:
        next(classify.fine_tune(asked(model, broken), here(tmp_path / "run")))
    said = str(caught.value)
    assert [name for name in range(54) if f"{broken / str(name)}.wav" in said] == [3, 4, 11]
    assert "\n" not in said
    assert not (tmp_path / "run").exists()
    for number in (3, 4, 11):
        shutil.copy(task / f"{number}.wav", broken)
    assert next(classify.fine_tune(asked(model, broken), here(tmp_path / "run"))).step == 1
