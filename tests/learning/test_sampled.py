"""Asking for a sample of the hidden patches: the same model, the same losses in the mean, a fraction of the work."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import assert_same_run, here, tiny, train, write_clips

from ssast_lab import audio, config, objectives, patches
from ssast_lab.config import ConfigError, MaskConfig, to_dict
from ssast_lab.learning.pretrain import draw_masks, draw_queried, pretrain
from ssast_lab.learning.unlabelled import find_clips
from ssast_lab.model import SSAST

GRIDS = {
    "patch": dict(patch=(16, 16), stride=(16, 16)),
    "frame": dict(patch=(128, 2), stride=(128, 2)),
    "tall": dict(patch=(32, 8), stride=(32, 8)),
}


def small(kind: str) -> SSAST:
    torch.manual_seed(3)
    return SSAST(config.ModelConfig(width=32, depth=2, heads=2, frames=64, **GRIDS[kind]))


def hidden(model: SSAST, count: int = 12, batch: int = 3) -> torch.Tensor:
    return draw_masks(model.grid, MaskConfig(count, (2, 3) if model.grid.rows > 1 else None), batch, 0, 0)


def learned(model: SSAST, fbank, mask, *asked) -> tuple[objectives.Losses, list[torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    losses = objectives.joint(model(fbank, mask, *asked), model.targets(fbank, mask), asked=asked[0] if asked else None)
    losses.total.backward()
    return losses, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("kind", GRIDS)
def test_asking_for_all_is_the_full_way(kind):
    model, fbank = small(kind), torch.randn(3, 64, 128)
    mask = hidden(model)
    everyone = torch.arange(12).expand(3, -1)
    full, gradients = learned(model, fbank, mask)
    asked, others = learned(model, fbank, mask, everyone)
    for one, other in zip(full, asked, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", GRIDS)
def test_those_asked_for_are_compared_with_all_hidden_patches(kind):
    """Against a computation patch by patch, from the tokens of an encoder that is given the visible and the asked ones."""
    model, fbank = small(kind).double(), torch.randn(2, 64, 128, dtype=torch.float64)
    mask, asked = hidden(model, batch=2), draw_queried(12, 5, 2, 0, 0)
    with torch.no_grad():
        guess, targets = model(fbank, mask, asked), model.targets(fbank, mask)
        losses = objectives.per_clip(guess, targets, asked=asked)
    for clip in range(2):
        nce, mse, right = [], [], []
        for row, place in enumerate(asked[clip].tolist()):
            scores = (guess.contrastive[clip, row].float() @ targets[clip].float().T).numpy()
            nce.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[place])
            right.append(scores.argmax() == place)
            mse.append(float((guess.reconstruction[clip, row] - targets[clip, place]).square().mean()))
        assert float(losses.nce[clip]) == pytest.approx(np.mean(nce), rel=1e-5)
        assert float(losses.mse[clip]) == pytest.approx(np.mean(mse), rel=1e-5)
        assert float(losses.accuracy[clip]) == pytest.approx(np.mean(right), rel=1e-6)


def test_what_is_not_asked_for_is_not_seen():
    """No value of a hidden patch, asked for or not, reaches a prediction; every visible one does."""
    model, fbank = small("patch"), torch.randn(1, 64, 128)
    mask, asked = hidden(model, batch=1), draw_queried(12, 4, 1, 0, 0)
    cells = patches.unpatchify(mask[..., None].expand(-1, -1, model.grid.values).float(), model.grid) > 0
    with torch.no_grad():
        guess = model(fbank, mask, asked)
        other = model(torch.where(cells, torch.randn_like(fbank), fbank), mask, asked)
        assert torch.equal(guess.reconstruction, other.reconstruction)
        changed = model(torch.where(cells, fbank, fbank + 1), mask, asked)
        assert not torch.allclose(guess.reconstruction, changed.reconstruction)


def test_a_sample_is_drawn_evenly_and_anew():
    drawn = torch.stack([draw_queried(12, 3, 50, 0, step) for step in range(100)])  # (steps, B, K)
    share = torch.bincount(drawn.flatten(), minlength=12) / 5000
    assert (share - 3 / 12).abs().max() < 0.04  # six standard deviations
    assert (drawn.diff(dim=-1) > 0).all()
    assert torch.equal(drawn[7], draw_queried(12, 3, 50, 0, 7))
    assert not torch.equal(drawn[7], drawn[8])
    assert not torch.equal(drawn[7], draw_queried(12, 3, 50, 1, 7))


@pytest.mark.parametrize("kind", ["patch", "frame"])
def test_a_sampled_run_resumed_is_the_undisturbed_run(kind, tmp_path):
    write_clips(tmp_path / "clips", 8)
    shape = GRIDS[kind]
    asked = tiny(tmp_path / "clips", model=shape, sampled=4, settle=0.25)
    asked = replace(asked, mask=MaskConfig(12, (2, 3) if kind == "patch" else None, fewest=6))
    whole = train(asked, here(tmp_path / "whole"))
    with closing(pretrain(asked, here(tmp_path / "parts"))) as steps:
        while next(steps).step < 6:
            pass
    train(asked, here(tmp_path / "parts", resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 12)
    _, (clip,) = find_clips(asked.data, 0)
    patches = whole[-1].reconstructions[0].grid.count  # of the held-out clip, or of a whole window
    frames = min(audio.OFFICIAL.frames_of(round(audio.info(clip.path).seconds * 16000)), 64)
    assert patches == frames // shape["patch"][1] * (128 // shape["patch"][0])
    assert whole[-1].evaluation.masked == round(12 * patches / 32)


def test_the_last_steps_ask_for_all(tmp_path, monkeypatch):
    write_clips(tmp_path / "clips", 8)
    seen: list[int | None] = []
    forward = SSAST.forward

    def watched(self, fbank, mask, asked=None, *clips):
        if self.training:
            seen.append(None if asked is None else asked.shape[1])
        return forward(self, fbank, mask, asked, *clips)

    monkeypatch.setattr(SSAST, "forward", watched)
    train(tiny(tmp_path / "clips", sampled=4, settle=0.25), here(tmp_path / "run"))
    assert seen == [4] * 9 + [None] * 3


def test_how_many_are_hidden_is_drawn_for_each_step():
    grid, mask = config.model_config("nano-patch").grid, MaskConfig(400, (3, 5), fewest=100)
    counts = [draw_masks(grid, mask, 2, 0, step).sum(1).tolist() for step in range(2000)]
    assert all(len(set(row)) == 1 for row in counts)
    drawn = np.array(counts)[:, 0]
    values = [400 - 25 * place for place in range(13)]
    assert set(drawn) == set(values)
    expected = np.diff(np.linspace(0, 1, 14) ** (1 / 3))  # of floor(13 u^3), with u even from 0 to 1
    share = np.array([(drawn == value).mean() for value in values])
    assert np.abs(share - expected).max() < 6 * 0.5 / np.sqrt(len(drawn))  # six standard deviations
    assert torch.equal(draw_masks(grid, mask, 3, 0, 5), draw_masks(grid, mask, 3, 0, 5))


@pytest.mark.parametrize("count", [1, 0, -3])
def test_fewer_than_two_are_refused(count):
    with pytest.raises(ConfigError, match="At least 2 hidden patches must be asked for"):
        config.TrainingConfig(sampled=count)


def test_more_than_are_hidden_are_refused():
    with pytest.raises(ConfigError, match="13 hidden patches cannot be asked for where only 12 are hidden"):
        tiny(sampled=13)
    with pytest.raises(ConfigError, match="where only 6 are hidden"):
        replace(tiny(sampled=8), mask=MaskConfig(12, (2, 3), fewest=6))


def test_the_official_softmax_needs_all():
    with pytest.raises(ConfigError, match="needs all of them"):
        config.TrainingConfig(sampled=4, softmax_over="predictions")
    with pytest.raises(ValueError, match="needs the predictions of all"):
        objectives.info_nce(torch.zeros(1, 2, 3), "predictions", torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("fewest", [0, 401])
def test_an_impossible_range_is_refused(fewest):
    with pytest.raises(ConfigError, match="The fewest hidden patches are from 1 to 400"):
        MaskConfig(400, fewest=fewest)


def test_an_older_run_is_read_as_it_was_meant():
    """Fields that came later are not in its configuration, and not in that of a run that does not use them."""
    asked = tiny("x")
    assert not {"sampled", "settle", "cooldown", "fewest"} & {*to_dict(asked)["training"], *to_dict(asked)["mask"]}
    sampled = tiny("x", sampled=4, settle=0.2)
    assert config.from_dict(config.PretrainConfig, json.loads(json.dumps(to_dict(sampled)))) == sampled
