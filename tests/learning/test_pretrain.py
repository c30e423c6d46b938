"""Pretraining: it learns, its presets are the published ones, and its run's folder holds what it promises."""

import json
import os

import numpy as np
import pytest
import torch
from tiny import assert_same_run, here, tiny, train, write_clips

from ssast_lab import checkpoint, config
from ssast_lab.config import SIZES, ConfigError, to_dict
from ssast_lab.learning.pretrain import Pretraining, draw_masks, pretrain
from ssast_lab.learning.run import Run
from ssast_lab.learning.unlabelled import find_clips
from ssast_lab.model import SSAST


def test_a_run_leaves_what_its_folder_promises(clips, tmp_path):
    steps = train(tiny(clips), here(tmp_path / "a run"))
    folder = Run(tmp_path / "a run")
    assert [step.step for step in steps] == [*range(1, 13)]
    assert [step.step for step in steps if step.evaluation] == [5, 10, 12]
    assert [*folder.checkpoints()] == sorted({10, 12, folder.best()["step"]})
    assert folder.best()["loss"] == min(step.evaluation.loss for step in steps if step.evaluation)
    for step, line in zip(steps, folder.metrics(), strict=True):
        assert line["loss"] == step.loss == pytest.approx(step.nce + 10 * step.mse, rel=1e-5)
        assert line.get("held_out_loss") == (step.evaluation and step.evaluation.loss)
        assert step.clips_per_second > 0
    assert {os.path.basename(name) for name in folder.unreadable()} == {"broken.flac", "empty.wav"}
    with np.load(folder.path / "samples" / "step-00000005.npz") as sample:
        assert np.array_equal(sample["original"], np.stack([r.original for r in steps[4].reconstructions]))
        assert sample["mask"].sum(1).tolist() == [steps[4].evaluation.masked] * len(sample["mask"])
    model = checkpoint.load(folder.checkpoints()[12] / "model")
    assert isinstance(model, SSAST)
    about = checkpoint.describe(folder.checkpoints()[12])["about"]
    assert config.from_dict(config.PretrainConfig, about["recipe"]) == tiny(clips)


def test_a_step_offers_its_losses_by_name(clips, tmp_path):
    steps = train(tiny(clips), here(tmp_path / "run"))
    for step in steps:
        assert (step.loss, step.nce, step.mse, step.accuracy) == tuple(step.losses)
        assert (step.evaluation is not None) == (len(step.reconstructions) > 0) == (step.step in (5, 10, 12))
        assert step.judgements == ()


def test_a_model_learns_one_batch_by_heart(tmp_path):
    write_clips(tmp_path / "clips", 4, seconds=(0.655, 0.655))
    steps = train(
        tiny(tmp_path / "clips", data={"held_out": (str(tmp_path / "clips"),)}, steps=400, learning_rate=4e-3, warmup=20,
             evaluate_every=400),
        here(tmp_path / "run", in_memory=True, checkpoint_every=400),
    )  # fmt: skip
    assert steps[0].accuracy < 0.3  # chance is 1 in 12
    assert np.mean([step.loss for step in steps[-20:]]) < 0.4 * steps[0].loss
    assert np.mean([step.accuracy for step in steps[-20:]]) > 0.9
    assert steps[-1].evaluation.accuracy > 0.9


@pytest.mark.parametrize("recipe_name", ["official", "modern", "quick"])
@pytest.mark.parametrize("kind", ["patch", "frame"])
@pytest.mark.parametrize("size", SIZES)
def test_every_preset_builds_as_published(recipe_name, size, kind):
    for count in (400, 250, 100):
        preset = config.pretrain_config(f"{recipe_name}-{size}-{kind}-{count}", train=("x",))
        with torch.device("meta"):
            model = SSAST(preset.model)
        assert model.grid.count == 512
        assert preset.mask == config.MaskConfig(count, (3, 5) if kind == "patch" else None)
        masks = draw_masks(preset.model.grid, preset.mask, 2, preset.training.seed, 0)
        assert masks.sum(1).tolist() == [count] * 2
        assert config.from_dict(config.PretrainConfig, json.loads(json.dumps(to_dict(preset)))) == preset
        assert preset.training.optimizer == {"official": "adam", "modern": "adamw", "quick": "muon"}[recipe_name]
        assert preset.training.sampled == (None if recipe_name == "official" else count // 4)
        if recipe_name == "official":
            t, little = preset.training, size in ("nano", "tiny")
            assert (t.optimizer, t.betas, t.weight_decay, t.clip_norm) == ("adam", (0.95, 0.999), 5e-7, None)
            assert (t.schedule, t.patience, t.warmup, t.warmup_every) == ("plateau", 2, 1000, 50)
            assert (t.batch, t.learning_rate) == ((120, 5e-4) if little else (24, 1e-4))
            assert (t.softmax_over, t.nce_weight, t.mse_weight, t.evaluate_every) == ("predictions", 1, 10, 4000)


def test_a_recipe_says_how_the_weights_start(clips):
    """Either way the same from the same seed; the pretext heads and tokens do not depend on it."""
    mae, official = (Pretraining(tiny(clips, start=start)) for start in ("mae", "official"))
    weights = []
    for task in (mae, official, mae):
        torch.manual_seed(0)
        weights.append(task.build().state_dict())
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    differ = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert "encoder.positions" in differ
    assert all(name.startswith("encoder.") for name in differ)
    torch.manual_seed(0)
    plain = SSAST(official.config.model).state_dict()
    assert all(torch.equal(plain[name], weights[1][name]) for name in plain)
    assert config.pretrain_config("official-base-patch-400").training.start == "official"


def test_what_is_evaluated_is_spread_over_the_held_out_clips(clips, tmp_path):
    held_out = write_clips(tmp_path / "held out", 10)
    config = tiny(clips / "000.flac", data={"held_out": (str(tmp_path / "held out"),), "held_out_clips": 4})
    _, chosen = find_clips(config.data, seed=0)
    assert [clip.path for clip in chosen] == [str(held_out[place]) for place in (0, 3, 6, 9)]


def test_progress_is_a_bar_with_the_time_that_is_left(clips, tmp_path, capsys):
    train(tiny(clips), here(tmp_path / "run", in_memory=True), progress=True)
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "<00:0" in shown  # what is left
    assert "loss=" in shown
    train(tiny(clips), here(tmp_path / "quiet"))
    assert capsys.readouterr().err == ""


def test_a_tracker_that_is_not_there_is_said_before_anything_is_written(clips, tmp_path):
    with pytest.raises(ConfigError, match="nonsense is no tracker that is installed"):
        train(tiny(clips), here(tmp_path / "run", track="nonsense"))
    assert not (tmp_path / "run").exists()


def test_figures_reach_a_tracker_too(clips, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = train(tiny(clips), here(tmp_path / "run", track="tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "pretrain"))
    events.Reload()
    logged = events.Scalars("loss")
    assert [event.step for event in logged] == [step.step for step in steps]
    assert [event.value for event in logged] == pytest.approx([step.loss for step in steps])


def test_one_long_recording_is_enough(tmp_path):
    """Its end is held out; from files and from memory it is the same run, and it goes on."""
    (path,) = write_clips(tmp_path / "recording", 1, (40, 40))
    config = tiny(path.parent)
    steps = train(config, here(tmp_path / "files"))
    assert steps[-1].evaluation.clips == 1
    kept = Run(tmp_path / "files").clips()["sets"]
    assert kept["train"]["names"] == [f"{path} from 0.00 to 36.00 s"]
    assert kept["held_out"]["names"] == [f"{path} from 36.00 to 40.00 s"]
    halves = pretrain(config, here(tmp_path / "memory", in_memory=True))
    for _ in range(6):
        next(halves)
    halves.close()
    train(config, here(tmp_path / "memory", in_memory=True, resume=True))
    assert_same_run(tmp_path / "files", tmp_path / "memory", 12)
