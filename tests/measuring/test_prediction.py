"""Labels of real sounds, as a whole and window by window: what a head says, and what a fine-tuned classifier was judged by."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
from tiny import here

import ssast_lab
from ssast_lab import analysis, audio, checkpoint
from ssast_lab.__main__ import main
from ssast_lab.config import FineTuneConfig, LabelledConfig, ModelConfig, TuningConfig
from ssast_lab.data.labelled import read_labelled
from ssast_lab.learning import classify
from ssast_lab.learning.run import Run
from ssast_lab.measuring.prediction import Prediction, PredictionError, Predictor
from ssast_lab.model import SSAST

SOUNDS = {name: sound["path"] for name, sound in audio.builtin_sounds().items()}
RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Quarters of the built-in sounds, of speech and of tabla: two of them to train on, one to choose by, one to be judged by."""
    folder = tmp_path_factory.mktemp("task")
    rows = ["path,label,source,fold"]
    for label in ("speech", "tabla"):
        wave = audio.load_waveform(SOUNDS[label]).numpy()
        pieces = np.array_split(wave, 24)
        for number, piece in enumerate(pieces):
            fold = ("train", "train", "valid", "test")[number * 4 // 24]
            soundfile.write(folder / f"{label}-{number}.wav", piece, RATE)
            rows.append(f"{label}-{number}.wav,{label},{label}-{fold},{fold}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    return folder


def tuned(folder, task, loss):
    torch.manual_seed(3)
    model = checkpoint.save(SSAST(ModelConfig(width=32, depth=2, heads=2, frames=64)), folder / "model")
    settings = TuningConfig(batch=8, learning_rate=3e-3, warmup=2, epochs=4, loss=loss)
    config = FineTuneConfig(str(model), data=LabelledConfig(str(task)), training=settings)
    steps = [*classify.fine_tune(config, here(folder / "run"))]
    return folder / "run", steps[-1].judgements[0]


@pytest.fixture(scope="module", params=["ce", "bce"])
def run(request, task, tmp_path_factory):
    return request.param, *tuned(tmp_path_factory.mktemp(request.param), task, request.param)


def test_a_classifier_says_what_it_was_judged_by(run, task, tmp_path):
    loss, folder, judgement = run
    test = read_labelled(task).where("test")
    logits = torch.from_numpy(judgement.scores.scores)
    wanted = (logits.sigmoid() if loss == "bce" else logits.softmax(-1)).numpy()
    exported = Run(folder).export(tmp_path / "exported", {})
    predictor = Predictor(folder)
    assert predictor.labels == {"labels": ("speech", "tabla")}
    assert predictor.several == (loss == "bce")
    table = predictor.many(test.clips)
    for number, (clip, probabilities) in enumerate(zip(test.clips, wanted, strict=True)):
        length = len(audio.load_waveform(clip.path))
        if length > predictor.window:
            continue  # was judged by its middle
        (one,) = predictor.of(table, number).values()
        (other,) = ssast_lab.predict(folder, clip.path).values()
        (half,) = ssast_lab.predict(exported, clip.path).values()
        np.testing.assert_allclose(one.clip, probabilities, atol=1e-3)
        np.testing.assert_allclose(other.clip, one.clip, atol=1e-4)
        np.testing.assert_allclose(half.clip, one.clip, atol=2e-2)
        assert half.several == one.several == (loss == "bce")
        assert one.seconds[0, 1] == pytest.approx(length / RATE, abs=0.026)
        if loss == "ce":
            assert one.clip.sum() == pytest.approx(1, abs=1e-5)


def test_windows_have_their_times(run):
    _, folder, _ = run
    wave = torch.cat(
        [audio.load_waveform(SOUNDS["speech"])[: 2 * RATE], audio.load_waveform(SOUNDS["tabla"])[: 3 * RATE]]
    )
    predictor = Predictor(folder, hop=0.32)
    (given,) = predictor(wave, RATE).values()
    np.testing.assert_allclose(given.seconds[:-1, 0], 0.32 * np.arange(len(given.seconds) - 1))
    assert given.seconds[-1, 1] == pytest.approx(5, abs=0.17)
    for (start, _), values in zip(given.seconds, given.windows, strict=True):
        (alone,) = predictor(wave[round(start * RATE) :][: predictor.window], RATE).values()
        np.testing.assert_allclose(alone.clip, values, atol=1e-4)
    assert given.clip.argmax() == given.labels.index("tabla")  # the longer part
    assert given.top(1) == [("tabla", pytest.approx(given.clip[1]))]
    early = [given.windows[at, 0] for at in range(4)]
    late = [given.windows[at, 0] for at in range(-5, 0)]
    assert np.mean(early) > np.mean(late)


@pytest.mark.parametrize("name", SOUNDS)
def test_the_built_in_heads_say_what_they_say_in_the_app(name):
    model = ssast_lab.load("tiny-patch")
    given = ssast_lab.predict("tiny-patch", SOUNDS[name])
    heads = checkpoint.heads("tiny-patch")
    assert list(given) == sorted(heads)
    excerpt = analysis.excerpt(audio.load_waveform(SOUNDS[name]), model.config)
    for question, wanted in analysis.predict(model, heads.values(), excerpt.fbank).items():
        np.testing.assert_allclose(given[question].clip, wanted, atol=1e-3)
        assert given[question].labels == heads[question].labels
    (one,) = ssast_lab.predict(model, audio.load_waveform(SOUNDS[name]), heads={"kind": heads["kind"]}).values()
    np.testing.assert_allclose(one.clip, given["kind"].clip, atol=1e-4)


def test_kinds_of_the_built_in_sounds_are_right():
    """And of an array at another rate."""
    for name, kind in (("speech", "speech"), ("guitar", "music"), ("frogs", "effect")):
        samples, rate = soundfile.read(SOUNDS[name])
        for given in (ssast_lab.predict("tiny-frame", SOUNDS[name]), ssast_lab.predict("tiny-frame", samples, rate)):
            assert given["kind"].top(1)[0][0] == kind


def test_above_a_threshold():
    record = Prediction(
        ("a", "b", "c"), np.array([0.2, 0.9, 0.6]), np.array([[0.9, 0.1, 0.1]]), np.array([[0, 1.0]]), True
    )
    assert record.above(0.5) == [("b", 0.9), ("c", 0.6)]
    assert record.above(0.5, window=0) == [("a", 0.9)]
    assert record.above(0.95) == []
    assert record.top(2) == [("b", 0.9), ("c", 0.6)]


def test_the_command_writes_tables(run, task, tmp_path, capsys):
    _, folder, _ = run
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    asked = [
        "predict",
        str(folder),
        str(SOUNDS["tabla"]),
        str(SOUNDS["speech"]),
        str(tmp_path / "broken.wav"),
        "--windows",
    ]
    main([*asked, "--out", str(tmp_path / "x.csv")])
    said = capsys.readouterr()
    assert f"Written: {tmp_path / 'x.csv'}" in said.out
    assert "broken.wav' cannot be decoded" in said.err
    rows = [*csv.DictReader((tmp_path / "x.csv").read_text(encoding="utf-8").splitlines())]
    assert list(rows[0]) == ["file", "of", "start", "end", "head", "label", "probability"]
    (given,) = ssast_lab.predict(folder, SOUNDS["tabla"]).values()
    mine = [row for row in rows if row["file"] == str(SOUNDS["tabla"])]
    whole = {row["label"]: float(row["probability"]) for row in mine if row["of"] == "clip"}
    assert whole == {label: pytest.approx(value, abs=1e-3) for label, value in given.top(3)}
    assert len(mine) == 2 + 2 * len(given.windows)

    main([*asked, "--out", str(tmp_path / "x.json"), "--threshold", "0.5", "--top", "1"])
    first = json.loads((tmp_path / "x.json").read_text())[0]
    assert first["file"] == str(SOUNDS["tabla"])
    assert all(value >= 0.5 for value in first["clip"]["labels"].values())
    assert len(first["windows"]) == len(given.windows)
    assert first["windows"][1]["start"] == given.seconds[1, 0]

    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"None of the recordings could be read"):
        main(["predict", str(folder), str(tmp_path / "broken.wav")])
    said = capsys.readouterr()
    assert "broken.wav' cannot be decoded" in said.err
    assert "Next" not in said.out


def test_the_heads_of_a_folder_in_words(tmp_path, capsys):
    main(["predict", "tiny-patch", str(SOUNDS["speech"]), "--heads", "kind", "--top", "1"])
    file, kind, following = capsys.readouterr().out.splitlines()
    assert file == str(SOUNDS["speech"])
    assert kind.split()[:2] == ["kind", "speech"]
    assert following.startswith("Next: ")


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (["predict", "scratch:nano-patch", "SOUND"], "has no labels: train a classifier on it"),
        (["predict", "tiny-patch", "SOUND", "--heads", "birds"], "has no head 'birds': it has drums, effects"),
        (["predict", "tiny-patch", "SOUND", "--out", "x.txt"], "would have to end in .csv or .json"),
        (["predict", "no-such-model", "SOUND"], "There is no model 'no-such-model'"),
        (["predict", "tiny-patch", "SOUND", "--top", "0"], "--top is at least 1"),
        (["predict", "tiny-patch", "SOUND", "--threshold", "7"], "a probability from 0 to 1"),
        (["predict", "tiny-patch"], "nothing to listen to: name folders"),
        (["predict", "tiny-patch", "/nowhere"], "There is no sound at /nowhere"),
    ],
)
def test_errors_are_one_sentence(asked, word):
    with pytest.raises(SystemExit, match=word) as ended:
        main([str(SOUNDS["speech"]) if part == "SOUND" else part for part in asked])
    assert "\n" not in str(ended.value)


def test_a_classifier_has_no_heads(run):
    with pytest.raises(PredictionError, match="answers by its own labels"):
        Predictor(run[1], heads=["kind"])


def test_a_classifier_of_transformers_with_several_labels_says_so(tmp_path):
    """As the AST that was fine-tuned on AudioSet does."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ASTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, frequency_stride=16, time_stride=16,
        max_length=64, problem_type="multi_label_classification", id2label={0: "bird", 1: "rain", 2: "voice"},
    )  # fmt: skip
    theirs = transformers.ASTForAudioClassification(config).eval()
    extractor = transformers.ASTFeatureExtractor(max_length=64)
    theirs.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    wave = audio.load_waveform(SOUNDS["blackbird"])[: Predictor(tmp_path).window]
    (given,) = ssast_lab.predict(tmp_path, wave).values()
    with torch.no_grad():
        wanted = theirs(**extractor(wave.numpy(), sampling_rate=RATE, return_tensors="pt")).logits.sigmoid()[0]
    assert given.several
    assert given.labels == ("bird", "rain", "voice")
    np.testing.assert_allclose(given.clip, wanted, atol=1e-3)
