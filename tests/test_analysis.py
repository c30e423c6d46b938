"""What a model sees of a sound, and what is recorded of what it makes of that."""

import numpy as np
import pytest
import torch

from ssast_lab import analysis, audio
from ssast_lab.config import MaskConfig, model_config
from ssast_lab.model import SSAST
from ssast_lab.patches import patchify

KINDS = ["nano-patch", "nano-frame"]


def noise(seconds: float) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * audio.SAMPLE_RATE), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", KINDS)
def test_a_long_sound_gives_a_window_and_a_short_one_its_whole_patches(name):
    config = model_config(name)
    long = analysis.excerpt(noise(12), config, start=1.0)
    assert long.grid == config.grid
    whole = audio.log_mel(noise(12)[16000 : 16000 + 400 + 1023 * 160])
    torch.testing.assert_close(long.fbank, whole)

    short = analysis.excerpt(noise(3), config)  # 298 frames
    assert short.grid.frames == 298 // config.patch[1] * config.patch[1] == len(short.fbank)
    assert short.grid.rows == config.grid.rows
    torch.testing.assert_close(short.fbank, audio.log_mel(noise(3))[: short.grid.frames])
    assert analysis.excerpt(noise(12), config, start=9.0).grid == short.grid


@pytest.mark.parametrize("name", KINDS)
def test_less_than_a_patch_is_refused_in_a_sentence(name):
    with pytest.raises(audio.AudioError, match=r"^From 2\.99 s on, only 0\.010 s of sound are left, [^\n]+\.$"):
        analysis.excerpt(noise(3), model_config(name), start=2.99)


@pytest.mark.parametrize("name", KINDS)
def test_the_record_says_what_the_model_said(name):
    model = SSAST(model_config(name, depth=1)).eval()
    piece = analysis.excerpt(noise(2), model.config)
    mask = analysis.draw_mask(piece, MaskConfig(40, (3, 5) if name.endswith("patch") else None), seed=3)
    record = analysis.reconstruct(model, piece.fbank, mask, start=0.5)
    assert record.hidden == 40
    assert record.start == 0.5

    resized = model.resized(piece.grid.frames)  # a model made for this length says the same
    guess = resized(piece.fbank[None], mask[None])
    targets = resized.targets(piece.fbank[None], mask[None])
    drawn = patchify(torch.from_numpy(record.reconstruction), piece.grid)
    torch.testing.assert_close(drawn[mask], guess.reconstruction[0].detach())
    torch.testing.assert_close(drawn[~mask], patchify(piece.fbank, piece.grid)[~mask])
    torch.testing.assert_close(targets[0], patchify(piece.fbank, piece.grid)[mask])

    assert np.isnan(record.patch_mse).tolist() == (~mask).tolist()
    assert record.mse == pytest.approx(float(np.nanmean(record.patch_mse)), rel=1e-5)
    assert record.accuracy == pytest.approx(float((record.rank[mask] == 0).mean()))
    assert set(record.rank[~mask]) == {-1}
    assert record.error[~(record.error == 0)].size > 0


@pytest.mark.parametrize("name", KINDS)
def test_patches_that_are_all_alike_are_not_all_recognised(name):
    model = SSAST(model_config(name, depth=1)).eval()
    piece = analysis.excerpt(torch.zeros(32000), model.config)
    mask = analysis.draw_mask(piece, MaskConfig(40, None))
    record = analysis.reconstruct(model, piece.fbank, mask)
    assert record.accuracy == pytest.approx(record.chance)
    assert (record.rank[mask] == 0).sum() == 1


def test_the_same_seed_hides_the_same_patches():
    piece = analysis.excerpt(noise(5), model_config("nano-patch"))
    one, again, other = (analysis.draw_mask(piece, MaskConfig(100), seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert int(one.sum()) == 100
