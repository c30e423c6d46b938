"""Short clips in pretraining: nothing that is hidden, learned or measured is padding, unless padding is asked for."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from tiny import PATIENCE, RATE, assert_same_run, here, launch, lines, tiny, train, write_clips

from ssast_lab import checkpoint, config, data
from ssast_lab.config import MaskConfig, from_dict, to_dict
from ssast_lab.learning.pretrain import Pretraining, ShortClips, on_lengths, pretrain
from ssast_lab.learning.run import Run, RunError
from ssast_lab.measuring.evaluation import evaluate
from ssast_lab.model import SSAST

pytestmark = pytest.mark.filterwarnings("ignore::ssast_lab.learning.pretrain.ShortClips")
PADDING = -config.AudioConfig().mean / (2 * config.AudioConfig().std)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Clips of 1 to 3 s to learn from, and others to be measured on; the windows of this file last 5 s."""
    folder = tmp_path_factory.mktemp("short")
    write_clips(folder / "train", 12, seconds=(1, 3))
    write_clips(folder / "heldout", 7, seconds=(1, 3))
    return folder


def recipe(folder, kind="patch", **training):
    shape = {"patch": (16, 16), "frame": (128, 2)}[kind]
    model = dict(frames=512, patch=shape, stride=shape)
    asked = tiny(
        model=model, data=dict(train=(folder / "train",), held_out=(folder / "heldout",), held_out_clips=7),
        **dict(steps=4, evaluate_every=2, evaluate_masks=160),
    )  # fmt: skip
    asked = replace(asked, mask=MaskConfig(160, (3, 5) if kind == "patch" else None, fewest=100))
    return replace(asked, training=replace(asked.training, **training))


@pytest.mark.parametrize("kind", ["patch", "frame"])
def test_the_log_says_what_an_evaluation_of_the_same_sounds_says(short, tmp_path, kind):
    last = train(recipe(short, kind), here(tmp_path / "run", micro_batch=2))[-1]
    model = checkpoint.load(Run(tmp_path / "run").checkpoints()[4])
    (score,) = evaluate(model, [short / "heldout"], [160]).scores
    logged = last.evaluation
    assert (logged.clips, score.clips) == (7, 7)
    for name in ("mse", "nce"):
        assert getattr(logged, name) == pytest.approx(getattr(score, name), rel=1e-4)
    assert logged.accuracy == pytest.approx(score.accuracy, abs=0.01)
    assert 1 / logged.masked == pytest.approx(score.chance, rel=1e-3)
    for record in last.reconstructions:
        assert not (record.original == np.float32(PADDING)).any()


def test_no_target_is_padding(short, tmp_path, monkeypatch):
    """Of any step or evaluation; with padding, as the official code has it, many are."""
    seen, targets = [], SSAST.targets

    def watched(self, fbank, mask):
        found = targets(self, fbank, mask)
        seen.append(float((found - PADDING).abs().amax(-1).lt(1e-6).float().mean()))
        return found

    monkeypatch.setattr(SSAST, "targets", watched)
    train(recipe(short), here(tmp_path / "packed"))
    assert max(seen) == 0
    seen.clear()
    train(recipe(short, pack=False), here(tmp_path / "padded"))
    assert np.mean(seen) > 0.4


@pytest.mark.parametrize("kind", ["patch", "frame"])
def test_a_resumed_run_is_the_undisturbed_run(short, tmp_path, kind):
    asked = recipe(short, kind, steps=8, sampled=40, settle=0.25, mix=0.5, stretch=0.1)
    train(asked, here(tmp_path / "whole"))
    with closing(pretrain(asked, here(tmp_path / "parts", in_memory=True))) as steps:
        while next(steps).step < 3:
            pass
    train(asked, here(tmp_path / "parts", resume=True, workers=2))
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 8)


def test_two_processes_make_the_run_of_one(short, tmp_path):
    asked = recipe(short, sampled=40)
    train(asked, here(tmp_path / "one"))
    process = launch(2, asked, here(tmp_path / "two"))
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert err.count("ssast-lab pretrain: 12 of 12 clips") == 1
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-4)


def test_a_corpus_of_short_clips_is_told_so(short, tmp_path):
    packed = recipe(short)
    with pytest.warns(ShortClips, match=r"^12 of 12 clips .* window of 5\.1 s; .*\(--model\.frames \d+\)\.$") as caught:
        pretrain(packed)
    lengths = [soundfile.info(path).frames for path in (short / "train").iterdir()]
    fitting = int(str(caught[0].message).split()[-1][:-2])
    alone = sum((samples - 400) // 160 + 1 <= fitting for samples in lengths)
    assert fitting % 16 == 0
    assert 0.8 <= alone / 12 < 1
    with pytest.warns(ShortClips, match=r"is padding.*--training\.pack\)\.$"):
        pretrain(recipe(short, pack=False))
    write_clips(tmp_path / "long", 6, seconds=(4, 7))
    long = data.find_clips([tmp_path / "long"])
    filled = [min(soundfile.info(clip.path).frames / 81920, 1) for clip in [*long, *data.find_clips([short / "train"])]]
    assert np.mean(filled[:6]) > 0.8
    assert on_lengths(long, packed) == ""
    said = on_lengths([*long, *data.find_clips([short / "train"])], packed)
    assert f"all in all they fill {np.mean(filled):.0%} of it" in said


def test_official_recipes_and_older_runs_pad(short, tmp_path):
    assert not config.pretrain_config("official-tiny-patch-400").training.pack
    assert config.pretrain_config("modern-tiny-patch-400").training.pack
    padded = recipe(short, pack=False)
    assert "pack" not in to_dict(padded)["training"]  # as in the configuration of an older run
    assert from_dict(config.PretrainConfig, json.loads(json.dumps(to_dict(padded)))) == padded
    train(padded, here(tmp_path / "run"))
    assert [*pretrain(padded, here(tmp_path / "run", resume=True))] == []
    with pytest.raises(RunError, match=r"training\.pack was None and is now True"):
        next(pretrain(recipe(short), here(tmp_path / "run", resume=True)))
    assert Pretraining(padded).plan(data.Files([], 1), slice(None)).window is None


def test_held_out_clips_without_two_patches_are_left_out_and_said(short, tmp_path):
    """Frame models tell patches of two frames apart; none or one is not enough."""
    write_clips(tmp_path / "heldout", 3, seconds=(1, 2))
    for name, frames in (("none", 1), ("one", 3), ("two", 4)):
        sound = 0.1 * np.random.default_rng(frames).standard_normal(400 + (frames - 1) * 160)
        soundfile.write(tmp_path / "heldout" / f"{name}.wav", sound, RATE)
    asked = recipe(short, "frame")
    asked = replace(asked, data=replace(asked.data, held_out=(str(tmp_path / "heldout"),)))
    last = train(asked, here(tmp_path / "run"))[-1]
    assert last.evaluation.clips == 4
    said = Run(tmp_path / "run").noticed()
    assert {name: "shorter than two patches" in what for name, what in said.items()} == {
        str(tmp_path / "heldout" / f"{name}.wav"): True for name in ("none", "one")
    }
    model = checkpoint.load(Run(tmp_path / "run").checkpoints()[4])
    report = evaluate(model, [tmp_path / "heldout"], [160])
    assert report.scores[-1].clips == 4
    assert torch.tensor(last.evaluation.mse) == pytest.approx(report.scores[-1].mse, rel=1e-4)
