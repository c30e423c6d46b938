"""What should be known of a clip that was read is collected wherever clips are read, and never lost or shown as a warning of ours.

Warnings are errors in these tests: one that is given instead of collected fails them.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, here

from ssast_lab import checkpoint, data
from ssast_lab.__main__ import main
from ssast_lab.config import FineTuneConfig, LabelledConfig, ModelConfig, TrainingConfig, TuningConfig
from ssast_lab.data.labelled import read_labelled
from ssast_lab.learning import augment, classify
from ssast_lab.learning.run import Run
from ssast_lab.learning.variation import LabelledPlan
from ssast_lab.measuring.compare import compare
from ssast_lab.measuring.embedding import embed_clips
from ssast_lab.measuring.evaluation import evaluate
from ssast_lab.measuring.probe import probe_task
from ssast_lab.measuring.upstreams import upstream
from ssast_lab.model import SSAST

SAMPLES = 10_480  # 64 frames


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A task in whose folds "valid" and "test" a file was cut short each, and a model on disk."""
    folder, random = tmp_path_factory.mktemp("noticed"), np.random.default_rng(0)
    rows = ["path,label,source,fold"]
    for number in range(18):
        fold, name = ("train", "valid", "test")[number % 3], f"{number:02}.wav"
        soundfile.write(folder / name, random.normal(0, 0.1, 2 * RATE), RATE, subtype="PCM_16")
        if number in (4, 8):
            (folder / name).write_bytes((folder / name).read_bytes()[: 44 + 2 * RATE])  # 1 s of 2
        rows.append(f"{name},{('a', 'b')[number // 3 % 2]},{number},{fold}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    checkpoint.save(SSAST(ModelConfig(width=32, depth=2, heads=2, frames=64)), folder / "model")
    cut = [str(folder / name) for name in ("04.wav", "08.wav")]
    return SimpleNamespace(folder=folder, task=folder / "task.csv", model=folder / "model", cut=cut)


def both(noticed: dict[str, str], places) -> bool:
    return sorted(noticed) == places.cut and all("promises 2.00 s" in what for what in noticed.values())


def test_in_fine_tuning(places, tmp_path):
    """The one file is met while the classifier is chosen, the other when it is judged."""
    config = FineTuneConfig(
        str(places.model), 64, data=LabelledConfig(str(places.task)), training=TuningConfig(batch=6, epochs=1, warmup=1)
    )
    [*classify.fine_tune(config, here(tmp_path / "run"))]
    assert both(Run(tmp_path / "run").noticed(), places)


def test_of_a_partner(places):
    """Only the file that was not cut is drawn by itself; the other one is mixed into it."""
    clips = [data.Clip(path) for path in (str(places.folder / "00.wav"), places.cut[0])]
    tuned = LabelledPlan(
        data.Files(clips, SAMPLES), 4, 0, targets=np.eye(2, dtype=np.float32), mixup=1.0, chances=np.array([1.0, 1.0])
    )
    packed = augment.AugmentingPlan(
        data.Files(clips[:1] * 64 + clips[1:], SAMPLES), 4, 0, settings=TrainingConfig(mix=1.0)
    )
    for plan in (tuned, packed):
        told = [batch for batch in map(plan.__getitem__, range(15)) if clips[1].name not in batch.names]
        assert {clips[1].name} == {name for batch in told for name in batch.noticed}


def test_in_embeddings_probes_and_comparisons(places, tmp_path):
    task, noticed = read_labelled(places.task), {}
    embed_clips(upstream("logmel"), task.clips, noticed=noticed)
    assert both(noticed, places)
    result = probe_task(upstream("logmel"), task)
    assert both(result.noticed, places)
    assert "To be known of 2 clips, such as: " in str(result)
    for _ in range(2):  # measured, and read where it was kept
        comparison = compare(["logmel"], [places.task], tmp_path / "out", cache=None)
        assert both(comparison.results[0].noticed, places)
        assert "To be known of 2 clips, such as: " in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("command", ["data look", "data statistics", "embed tiny-patch", "predict tiny-patch"])
def test_every_command_says_it_and_what_it_left_out(places, tmp_path, command, capsys):
    for name in ("00.wav", "04.wav"):
        (tmp_path / name).write_bytes((places.folder / name).read_bytes())
    (tmp_path / "page.mp3").write_text("<!DOCTYPE html><html>404</html>")
    out = ["--out", str(tmp_path / "out.npz")] if command.startswith("embed") else []
    assert main([*command.split(), str(tmp_path), *out]) in (0, None)
    said = "".join(capsys.readouterr())
    assert "promises 2.00 s of sound, and 1.00 s are found" in said
    assert "it looks like HTML" in said


def test_in_an_evaluation(places):
    report = evaluate(checkpoint.load(places.model), [places.folder], [12])
    assert both(report.noticed, places)
    assert "To be known of 2 clips, such as: " in str(report)
