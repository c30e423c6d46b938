"""Every path from a file to features hears the same sound: training, evaluation, fine-tuning, classifying, probing, comparing, app.

The truth is torchaudio's filterbank of the samples that soundfile reads, cut where the path says that it cuts.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, here, tiny, train
from torchaudio.compliance import kaldi

from ssast_lab import analysis, audio, checkpoint, data
from ssast_lab.app.sources import own_sound
from ssast_lab.config import FineTuneConfig, LabelledConfig, ModelConfig, TuningConfig
from ssast_lab.data.labelled import read_labelled
from ssast_lab.learning import classify
from ssast_lab.learning.pretrain import Pretraining
from ssast_lab.measuring.compare import compare
from ssast_lab.measuring.evaluation import evaluate
from ssast_lab.measuring.probe import probe_task
from ssast_lab.measuring.upstreams import upstream
from ssast_lab.model import SSAST, Classifier

FRAMES = 64
SAMPLES = audio.OFFICIAL.samples_of(FRAMES)
TOLERANCE = 2e-4  # nats; the steps of 16 bits change what is quiet by 0.06 and more, a loud sound that is clipped by 7
SOUNDS = {  # (seconds, deviation, subtype)
    "loud": (0.9, 3.0, "FLOAT"),
    "quiet": (0.9, 1e-4, "PCM_24"),
    "quiet and loud": (0.9, None, "PCM_24"),
    "sixteen": (0.9, 0.1, "PCM_16"),
    "long": (15.0, 2.0, "FLOAT"),
    "long and quiet": (15.0, 3e-4, "PCM_24"),
    "short": (0.4, 1e-3, "PCM_24"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Noises in a folder, a task with two labels over them, and a model and a classifier on disk."""
    folder, random = tmp_path_factory.mktemp("same"), np.random.default_rng(0)
    (folder / "clips").mkdir()
    rows = ["path,label,source,fold"]
    for number, (name, (seconds, deviation, subtype)) in enumerate(SOUNDS.items()):
        noise = random.standard_normal(round(seconds * RATE))
        level = np.geomspace(1e-5, 0.2, len(noise)) if deviation is None else deviation
        soundfile.write(folder / "clips" / f"{name}.wav", level * noise, RATE, subtype=subtype)
        for fold in ("train", "valid", "test"):  # each sound is in each, once whole and else changed in its last sample
            path = folder / "clips" / f"{name}.wav" if fold == "test" else folder / fold / f"{name}.wav"
            path.parent.mkdir(exist_ok=True)
            if fold != "test":
                changed = level * noise
                changed[-1] = 0.0 if fold == "train" else changed[-2]
                soundfile.write(path, changed, RATE, subtype=subtype)
            rows.append(f"{path},{('a', 'b')[number % 2]},{fold}-{number},{fold}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    config = ModelConfig(width=32, depth=2, heads=2, frames=FRAMES)
    checkpoint.save(SSAST(config), folder / "model")
    return SimpleNamespace(
        folder=folder, clips=folder / "clips", task=folder / "task.csv", model=folder / "model", config=config
    )


@pytest.fixture
def heard(monkeypatch):
    """(T, F) un-normalised features of all that any path has made, clip by clip."""
    found, made = [], audio.log_mel

    def watched(waveform, *config, **named):
        result = made(waveform, *config, **named)
        clips = result if result.ndim == 3 else result[None]
        found.extend(audio.denormalise(clips, *config[:1]))
        return result

    monkeypatch.setattr(audio, "log_mel", watched)
    return found


def truth(path: Path, start: int = 0) -> torch.Tensor:
    """(at most FRAMES, F) of the samples from ``start`` on, in the official loader's way."""
    sound, rate = soundfile.read(path, start=start, frames=SAMPLES, dtype="float32")
    waveform = torch.from_numpy(sound)[None]
    return kaldi.fbank(
        waveform - waveform.mean(), htk_compat=True, sample_frequency=rate, use_energy=False, window_type="hanning",
        num_mel_bins=128, dither=0.0, frame_shift=10,
    )  # fmt: skip


def nearest(heard: list[torch.Tensor], expected: torch.Tensor) -> float:
    """How far the features that are most like the expected ones are from them, in nats; at least two patches of them."""
    distances = []
    for features in heard:
        frames = min(len(features), len(expected))
        if frames >= 32:
            distances.append(float((features[:frames] - expected[:frames]).abs().max()))
    return min(distances)


def check(heard: list[torch.Tensor], clips: Path, fraction: float) -> None:
    """Every sound was heard, its piece from this fraction of the room on."""
    for name in SOUNDS:
        path = clips / f"{name}.wav"
        room = max(soundfile.info(path).frames - SAMPLES, 0)
        assert nearest(heard, truth(path, int(fraction * (room + 1)) if room else 0)) < TOLERANCE, name


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.filterwarnings("ignore::ssast_lab.learning.pretrain.ShortClips")
def test_pretraining_and_its_evaluation(places, heard, tmp_path, in_memory, pack):
    config = tiny(
        places.folder / "train",
        data=dict(held_out=(places.clips,), held_out_clips=99),
        steps=1,
        batch=len(SOUNDS),
        pack=pack,
    )
    task = Pretraining(config)
    plan = task.plan(data.Files(task.clips, SAMPLES), slice(None))
    where = {}
    for place, index in zip(plan.places(0).tolist(), plan.indices(plan.places(0)).tolist(), strict=True):
        where[task.clips[index].path] = np.random.default_rng([0, place, data.Stream.CROP]).random()
    train(config, here(tmp_path / "run", in_memory=in_memory))
    check(heard, places.clips, data.MIDDLE)
    for path, fraction in where.items():
        room = max(soundfile.info(path).frames - SAMPLES, 0)
        assert nearest(heard, truth(Path(path), int(fraction * (room + 1)) if room else 0)) < TOLERANCE, path


def test_an_evaluation(places, heard):
    evaluate(checkpoint.load(places.model), [places.clips], [12])
    check(heard, places.clips, data.MIDDLE)


@pytest.mark.parametrize("in_memory", [False, True])
def test_fine_tuning_and_its_judgement(places, heard, tmp_path, in_memory):
    config = FineTuneConfig(
        str(places.model), FRAMES, data=LabelledConfig(str(places.task)),
        training=TuningConfig(batch=len(SOUNDS), epochs=1, warmup=1),
    )  # fmt: skip
    task = classify.FineTuning(config)
    plan = task.plan(data.Files(task.clips, SAMPLES), slice(None))
    [*classify.fine_tune(config, here(tmp_path / "run", in_memory=in_memory))]
    for place, index in zip(plan.places(0).tolist(), plan.indices(plan.places(0)).tolist(), strict=True):
        path, fraction = task.clips[index].path, np.random.default_rng([0, place, data.Stream.CROP]).random()
        room = max(soundfile.info(path).frames - SAMPLES, 0)
        assert nearest(heard, truth(Path(path), int(fraction * (room + 1)) if room else 0)) < TOLERANCE, path
    check(heard, places.folder / "valid", data.BEGINNING)
    check(heard, places.clips, data.BEGINNING)


def test_a_classifier_hears_what_transformers_hears(places, heard):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    classifier = Classifier(ModelConfig(width=32, depth=1, heads=2, frames=FRAMES, labels=("a", "b")))
    classify.logits(classifier, data.find_clips([places.clips]))
    check(heard, places.clips, data.BEGINNING)
    extractor = transformers.ASTFeatureExtractor(max_length=FRAMES, do_normalize=False)
    for name in SOUNDS:
        sound, rate = soundfile.read(places.clips / f"{name}.wav", dtype="float32")
        theirs = torch.from_numpy(np.array(extractor(sound, sampling_rate=rate)["input_values"][0]))
        # they leave the mean to each frame, which rounds otherwise
        assert nearest(heard, theirs) < 50 * TOLERANCE, name


def test_embeddings_probes_and_comparisons(places, heard, tmp_path):
    probe_task(upstream(places.model), read_labelled(places.task))
    check(heard, places.clips, data.BEGINNING)
    heard.clear()
    compare([str(places.model)], [places.task], tmp_path / "out", cache=None)
    check(heard, places.clips, data.BEGINNING)


def test_the_app_and_the_front_door(places, heard):
    for name in SOUNDS:
        path = places.clips / f"{name}.wav"
        analysis.excerpt(own_sound(str(path)).waveform, places.config)
        assert nearest(heard[-1:], truth(path)) < TOLERANCE
        if name.startswith("long"):
            analysis.excerpt(own_sound(str(path)).waveform, places.config, 7.5)
            assert nearest(heard[-1:], truth(path, round(7.5 * RATE))) < TOLERANCE
