"""Models that do not hear at 16 kHz: every station of a sound's way, on sounds that 16 kHz cannot tell apart."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchaudio.compliance import kaldi

import ssast_lab
from ssast_lab import audio, checkpoint, data
from ssast_lab.__main__ import main
from ssast_lab.audio import AudioError
from ssast_lab.config import (
    AUDIO,
    AudioConfig,
    ConfigError,
    DataConfig,
    FineTuneConfig,
    LabelledConfig,
    MaskConfig,
    PretrainConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    model_config,
    pretrain_config,
)
from ssast_lab.learning import augment
from ssast_lab.measuring.transformer import SoundEmbedder
from ssast_lab.model import SSAST

BIRDS = AUDIO["birds-48k"]
RATES = pytest.mark.parametrize("config", [*AUDIO.values(), AudioConfig(sample_rate=32_000, low=50, high=14_000)])
HIGH = {"low": 9_500, "high": 13_000}  # Hz, of the calls of two kinds; both lie above what 16 kHz can hold


def call(kind: str, seed: int, seconds: float = 1.3, rate: int = 48_000) -> np.ndarray:
    """Short calls at 9.5 or 13 kHz over noise below 2 kHz."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    spectrum = np.fft.rfft(random.standard_normal(len(time)))
    spectrum[np.fft.rfftfreq(len(time), 1 / rate) > 2000] = 0
    beats = (np.sin(2 * np.pi * (5 + random.random()) * time + 6 * random.random()) > 0.3).astype(float)
    beats = np.convolve(beats, np.hanning(481) / 240, "same")  # no click, which would be heard below, too
    tone = np.sin(2 * np.pi * HIGH[kind] * (1 + 0.02 * random.standard_normal()) * time)
    return (0.1 * np.fft.irfft(spectrum, len(time)) + 0.2 * beats * tone).astype(np.float32)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """A folder of clips for each kind."""
    folder = tmp_path_factory.mktemp("calls")
    for kind in HIGH:
        (folder / kind).mkdir()
        for seed in range(16):
            soundfile.write(folder / kind / f"{seed}.wav", call(kind, seed + 100 * len(kind)), 48_000)
    return folder


@pytest.fixture(scope="module")
def trained(calls, tmp_path_factory):
    """A run on these clips, which hears them at 48 kHz."""
    model = replace(model_config("nano-patch-birds-48k"), width=64, depth=2, heads=1, frames=128)
    settings = PretrainConfig(
        model, MaskConfig(share=0.6), DataConfig(train=(str(calls),)), TrainingConfig(steps=60, batch=8, warmup=5, learning_rate=3e-3)
    )  # fmt: skip
    run = RunConfig(folder=str(tmp_path_factory.mktemp("run") / "birds"), workers=0)
    steps = [*ssast_lab.pretrain(settings, run)]
    assert steps[-1].mse < 0.8 * steps[0].mse
    return run.folder


@RATES
def test_features_are_those_of_kaldi(config):
    wave = torch.from_numpy(call("low", 1, 0.5, config.sample_rate))
    expected = kaldi.fbank(
        wave[None], sample_frequency=config.sample_rate, htk_compat=True, use_energy=False, window_type="hanning",
        num_mel_bins=config.mel_bins, dither=0.0, frame_shift=10, low_freq=config.low, high_freq=config.band[1],
    )  # fmt: skip
    found = audio.kaldi_fbank(wave, config)
    assert found.shape == (config.frames_of(len(wave)), config.mel_bins)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert config.samples_of(len(found)) <= len(wave) < config.samples_of(len(found) + 1)


@RATES
def test_a_faster_sound_is_the_sound_with_longer_windows(config):
    paces = augment.hops(0.15, config)
    assert len(paces) > 1
    assert paces[0] / config.hop == pytest.approx(2 - paces[-1] / config.hop)
    wave = torch.from_numpy(call("low", 2, 0.6, config.sample_rate))
    faster = torch.from_numpy(_resampled(wave.numpy(), paces[-1], config.hop))
    expected, found = audio.kaldi_fbank(faster, config), audio.kaldi_fbank(wave, config, paces[-1])
    many = min(len(expected), len(found))
    here = slice(2, many - 2), slice(0, config.mel_bins // 2)
    assert float((expected[:many][here] - found[:many][here]).abs().median()) < 0.1


def _resampled(wave: np.ndarray, rate: int, to: int) -> np.ndarray:
    import soxr

    return soxr.resample(wave, rate, to, quality="VHQ").astype(np.float32)


@RATES
def test_features_become_sound_again(config):
    wave = torch.from_numpy(call("low", 3, 0.6, config.sample_rate))
    fbank = audio.log_mel(wave, config)
    sound = audio.invert(fbank, config)
    assert sound.shape == (config.samples_of(len(fbank)),)
    again = audio.log_mel(sound, config)
    loud = fbank > fbank.max() - 1.5  # 60 dB below the loudest
    assert float((again - fbank)[loud].abs().mean()) < 0.15


@pytest.mark.parametrize("to_rate", [8_000, 32_000, 48_000])
def test_a_crop_is_the_same_stretch_of_the_whole(calls, to_rate):
    path = calls / "low" / "3.wav"
    whole, report = audio.load_with_report(path, to_rate=to_rate)
    assert (report.sample_rate, report.to_rate, len(whole)) == (48_000, to_rate, round(1.3 * to_rate))
    crop = audio.load_waveform(path, 0.35, 0.5, to_rate=to_rate)
    start = round(0.35 * to_rate)
    torch.testing.assert_close(crop, whole[start : start + to_rate // 2], rtol=0, atol=2e-4)
    torch.testing.assert_close(torch.cat([*audio.waveform_blocks(path, to_rate=to_rate)]), whole, rtol=0, atol=1e-6)
    clip = data.find_clips([calls / "low"])[0]
    torch.testing.assert_close(data.read_whole(clip, rate=to_rate), audio.load_waveform(clip.path, to_rate=to_rate))


def test_what_lies_above_a_model_is_told(tmp_path):
    time = np.arange(48_000) / 48_000
    soundfile.write(tmp_path / "high.wav", 0.3 * np.sin(2 * np.pi * 12_000 * time), 48_000)
    with pytest.warns(audio.AudioWarning, match="above 8 kHz, where a model of 16 kHz hears nothing"):
        ssast_lab.load_waveform(tmp_path / "high.wav")
    ssast_lab.load_waveform(tmp_path / "high.wav", to_rate=48_000)  # a warning would fail
    with pytest.raises(AudioError, match="whole number of Hz"):
        ssast_lab.load_waveform(tmp_path / "high.wav", to_rate=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(sample_rate=44_100), "multiple of 200 Hz"),
        (dict(sample_rate=48_000.0), "multiple of 200 Hz"),
        (dict(low=9000.0), "half the sample rate"),
        (dict(high=9000.0), "half the sample rate"),
        (dict(low=-1.0), "half the sample rate"),
        (dict(low="20"), "are numbers"),
    ],
)
def test_wrong_features_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        AudioConfig(**settings)


def test_presets_by_name():
    assert model_config("tiny-frame-telephone-8k").patch == (64, 2)
    assert model_config("tiny-frame-telephone-8k").grid.rows == 1
    assert pretrain_config("quick-nano-patch-400-birds-48k").model.audio == BIRDS
    assert model_config("tiny-patch-birds-48k").grid.hertz(511)[1] == pytest.approx(15_000)
    for wrong in ("tiny-patch-frogs-22k", "tiny-birds-48k"):
        with pytest.raises(ConfigError, match="no model preset"):
            model_config(wrong)
    with pytest.raises(ConfigError, match="for another sample rate"):
        pretrain_config("quick-nano-patch-400-frogs-22k")


def separated(model, calls) -> float:
    """The accuracy of a linear classifier on the embeddings of clips that it has not met."""
    paths = [path for kind in HIGH for path in sorted((calls / kind).iterdir())]
    labels = [path.parent.name for path in paths]
    pipeline = make_pipeline(SoundEmbedder(str(model)), StandardScaler(), LogisticRegression(C=0.1))
    return float(cross_val_score(pipeline, paths, labels, cv=4).mean())


def test_sounds_that_16_khz_cannot_tell_apart(trained, calls):
    assert separated(trained, calls) > 0.9
    assert separated("tiny-patch", calls) < 0.8  # 0.5 is chance


def test_a_trained_model_knows_its_rate(trained, calls):
    model = ssast_lab.load(trained)
    assert model.config.audio == BIRDS
    record = ssast_lab.reconstruct(model, str(calls / "high" / "2.wav"), 0.5)
    assert record.grid.band == (150.0, 15_000.0)
    assert record.audio.sample_rate == 48_000
    assert len(ssast_lab.invert(record)) == BIRDS.samples_of(record.grid.frames)
    above = round(record.grid.mel_bin(6000))
    strongest = above + int(record.original.max(0)[above:].argmax())
    assert abs(record.grid.mel_bin(HIGH["high"]) - strongest) < 4
    embedding = ssast_lab.Embedder(trained, device="cpu")(call("low", 0), 48_000)
    assert embedding.hertz.max() == pytest.approx(15_000)
    assert embedding.step_seconds[-1, 1] == pytest.approx(1.3, abs=0.17)


def test_a_classifier_on_it(trained, calls, tmp_path):
    settings = FineTuneConfig(
        trained, None, None, "mean", None, None, LabelledConfig(train=str(calls)),
        TuningConfig(steps=80, batch=8, learning_rate=1e-3, warmup=0, mixup=0.0, frequency_mask=0, time_mask=0),
    )  # fmt: skip
    run = RunConfig(folder=str(tmp_path / "kinds"), workers=0)
    last = [*ssast_lab.fine_tune(settings, run)][-1]
    assert last.evaluation.accuracy == 1
    said = ssast_lab.predict(str(tmp_path / "kinds"), str(calls / "high" / "1.wav"))["labels"]
    assert said.top(1)[0][0] == "high"


def test_exports(trained, calls, tmp_path):
    model, path = checkpoint.load(trained), str(calls / "low" / "1.wav")
    wave = ssast_lab.load_waveform(path, to_rate=48_000)
    fbank = ssast_lab.log_mel(wave, BIRDS, frames=128)
    expected = model.encoder(fbank[None]).tokens
    for to in ("transformers", "official", "onnx"):
        made = checkpoint.export(trained, tmp_path / to, to=to, takes="waveform" if to == "onnx" else "features")
        assert any("48000" in note or "48 kHz" in note for note in made.notes), made.notes
        assert "48 kHz" in (tmp_path / to / "README.md").read_text()
    assert "pads what is shorter than 1.3 s with silence" in (tmp_path / "transformers" / "README.md").read_text()

    pytest.importorskip("transformers")
    again = checkpoint.load(tmp_path / "transformers")
    assert again.config.audio == BIRDS
    from transformers import AutoFeatureExtractor

    with pytest.raises(Exception, match=r"trust_remote_code|SSASTFeatureExtractor"):
        AutoFeatureExtractor.from_pretrained(tmp_path / "transformers", trust_remote_code=False)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "transformers", trust_remote_code=True)
    theirs = extractor((wave - wave.mean()).numpy(), sampling_rate=48_000, return_tensors="pt")["input_values"][0]
    torch.testing.assert_close(theirs, fbank, rtol=0, atol=1e-4)

    official = checkpoint.load(tmp_path / "official" / "model.pth")
    assert isinstance(official, SSAST)
    assert official.config == model.config
    torch.testing.assert_close(official.encoder(fbank[None]).tokens, expected)

    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["sample_rate"]) == 48_000
    assert (json.loads(told["low"]), json.loads(told["high"])) == BIRDS.band
    cut = wave[: BIRDS.samples_of(128)]
    tokens = session.run(["tokens"], {"waveform": cut[None].numpy()})[0]
    torch.testing.assert_close(
        torch.from_numpy(tokens), model.encoder(ssast_lab.log_mel(cut, BIRDS)[None]).tokens, rtol=0, atol=5e-4
    )


def test_a_run_of_another_band_is_not_compared_with_the_built_in_model(calls, tmp_path, capfd):
    small = [
        "--model.depth",
        "1",
        "--model.frames",
        "64",
        "--mask.share",
        "0.5",
        "--training.batch",
        "2",
        "--training.steps",
        "2",
        "--training.sampled",
        "None",
    ]
    for features, compared in (("", True), ("-birds-48k", False)):
        run = ["--data.train", str(calls), "--run.folder", str(tmp_path / f"run{features}"), "--run.workers", "0"]
        main(["pretrain", f"quick-nano-patch-400{features}", *small, *run])
        said = capfd.readouterr().err
        assert "clips to learn from" in said
        assert ("For comparison" in said) == compared


def test_the_nearest_windows_by_command(trained, calls, tmp_path, capsys):
    main(["embed", trained, str(calls), "--out", str(tmp_path / "calls.npz")])
    capsys.readouterr()
    main(["near", trained, str(tmp_path / "calls.npz"), str(calls / "high" / "5.wav"), "--top", "3"])
    said = capsys.readouterr().out
    assert "high/5.wav" in said.splitlines()[0] + said.splitlines()[1]
    main(["info", trained])
    assert "48 kHz" in capsys.readouterr().out
    main(["data", "statistics", str(calls), "--features", "birds-48k"])
    said = capsys.readouterr().out
    assert "quick-nano-patch-400-birds-48k" in said
    for features in ("", *AUDIO):  # what is printed is a recipe
        main(["data", "statistics", str(calls), "--limit", "2", "--features", features])
        recipe = capsys.readouterr().out.partition("Next: ssast-lab pretrain ")[2].split()[0]
        assert pretrain_config(recipe).model.audio == (AUDIO[features] if features else AudioConfig())
    mean = float(said.split()[1].rstrip(","))
    clips = [audio.kaldi_fbank(audio.load_waveform(path, to_rate=48_000), BIRDS) for path in calls.rglob("*.wav")]
    assert mean == pytest.approx(float(torch.cat(clips).mean()), abs=1e-3)
