"""What a model sees of a sound, and what is recorded of what it makes of that."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssast_lab import analysis, audio, masking
from ssast_lab.config import ConfigError, MaskConfig, model_config
from ssast_lab.model import SSAST, Classifier
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


# --- baselines ----------------------------------------------------------------------------------------------------


def test_linear_in_time_is_interpolation_bin_by_bin():
    random = np.random.default_rng(0)
    sound, hidden = random.standard_normal((40, 5)), random.random(40) < 0.8
    hidden[[0, 1, 39]] = True
    drawn = analysis.linear_in_time(sound, hidden)
    t = np.arange(40)
    for mel in range(5):
        expected = np.interp(t, t[~hidden], sound[~hidden, mel])
        np.testing.assert_allclose(drawn[:, mel], expected, atol=1e-12)


def test_linear_inpainting_is_the_mean_of_the_neighbours():
    random = np.random.default_rng(1)
    sound, hidden = random.standard_normal((9, 8)), random.random((9, 8)) < 0.6
    hidden[:2, :3] = True  # a corner
    slow = np.where(hidden, 0, sound)
    for _ in range(1000):
        for t, f in np.argwhere(hidden):
            near = [(t - 1, f), (t + 1, f), (t, f - 1), (t, f + 1)]
            slow[t, f] = np.mean([slow[a, b] for a, b in near if 0 <= a < 9 and 0 <= b < 8])
    drawn = analysis.linear_inpainting(sound, hidden)
    np.testing.assert_allclose(drawn, slow, atol=1e-9)
    assert np.array_equal(drawn[~hidden], sound[~hidden])


def test_linear_inpainting_continues_a_slope():
    frames, mel = np.meshgrid(np.arange(80), np.arange(64), indexing="ij")
    slope = 0.3 * frames - 0.1 * mel
    hidden = np.zeros((80, 64), bool)
    hidden[16:64, 16:48] = True
    np.testing.assert_allclose(analysis.linear_inpainting(slope, hidden), slope, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_baselines_draw_the_hidden_patches_only_and_are_measured_as_the_model_is(name):
    model = SSAST(model_config(name, depth=1)).eval()
    piece = analysis.excerpt(noise(2), model.config)
    mask = analysis.draw_mask(piece, 0.6, seed=3)
    record = analysis.reconstruct(model, piece.fbank, mask)
    mean, line = analysis.baselines(record)
    assert mean.mse == pytest.approx(record.baseline, rel=1e-5)
    assert line.name == ("linear in time" if name.endswith("frame") else "linear inpainting")
    for baseline in (mean, line):
        cut, drawn = (patchify(torch.from_numpy(values), piece.grid) for values in (record.original, baseline.drawn))
        assert torch.equal(cut[~mask], drawn[~mask])
        np.testing.assert_allclose(baseline.patch_mse[mask], (cut - drawn)[mask].square().mean(-1), rtol=1e-4)
        assert np.isnan(baseline.patch_mse).tolist() == (~mask).tolist()
        assert baseline.mse == pytest.approx(float(np.nanmean(baseline.patch_mse)), rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_baselines_of_nothing_visible_are_the_mean_of_the_training_data(name):
    model = SSAST(model_config(name, depth=1)).eval()
    piece = analysis.excerpt(noise(1), model.config)
    for baseline in analysis.baselines(
        analysis.reconstruct(model, piece.fbank, torch.ones(piece.grid.count, dtype=torch.bool))
    ):
        assert not baseline.drawn.any()
        assert baseline.mse == pytest.approx(float(piece.fbank.square().mean()), rel=1e-4)


# --- attention ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sound(nano):
    return audio.log_mel(torch.randn(audio.OFFICIAL.samples_of(64), generator=torch.Generator().manual_seed(4)) * 0.1)


@pytest.mark.parametrize("hidden", [False, True])
def test_attention_is_that_of_every_layer(nano, sound, hidden):
    mask = analysis.draw_mask(analysis.Excerpt(0, sound, nano.grid), 0.5) if hidden else None
    record = analysis.attend(nano, sound, mask)
    tokens = 2 + nano.grid.count
    assert record.weights.shape == (2, 2, tokens, tokens)
    np.testing.assert_allclose(record.weights.sum(-1), 1, rtol=1e-5)
    # by hand, in the second layer
    with torch.no_grad():
        before = nano.encode(sound[None], None if mask is None else mask[None], layers=[0]).layers[0]
        weights = nano.encoder.blocks[1].attention.weights(nano.encoder.blocks[1].norm1(before))
    np.testing.assert_allclose(record.weights[1], weights[0], rtol=1e-5, atol=1e-7)
    mean = record.among_patches(1)
    np.testing.assert_allclose(mean, record.weights[1].mean(0)[2:, 2:])
    np.testing.assert_allclose(record.among_patches(1, 0), record.weights[1, 0, 2:, 2:])


def test_rollout_mixes_what_it_should(nano, sound):
    record = analysis.attend(nano, sound)
    np.testing.assert_allclose(record.rollout().sum(-1), 1, rtol=1e-5)
    tokens = record.weights.shape[-1]
    itself = replace(record, weights=np.broadcast_to(np.eye(tokens, dtype=np.float32), record.weights.shape))
    np.testing.assert_allclose(itself.rollout(), np.eye(tokens))
    even = replace(record, weights=np.full_like(record.weights, 1 / tokens))
    # in each of two layers half stays and half is spread evenly: a quarter has stayed
    np.testing.assert_allclose(even.rollout(), np.eye(tokens) / 4 + 0.75 / tokens, rtol=1e-4)


def test_distances_are_those_of_the_patches(nano, sound):
    record = analysis.attend(nano, sound)
    tokens, grid = record.weights.shape[-1], nano.grid
    near = replace(record, weights=np.broadcast_to(np.eye(tokens, dtype=np.float32), record.weights.shape))
    seconds, bins = near.distances()
    assert seconds.shape == bins.shape == (2, 2)
    assert not seconds.any()
    assert not bins.any()
    # everybody attends to the first patch
    weights = np.zeros_like(record.weights)
    weights[..., 2] = 1
    seconds, bins = replace(record, weights=weights).distances()
    middle = np.arange(grid.columns).mean() * grid.stride[1] * 0.01
    np.testing.assert_allclose(seconds, middle, rtol=1e-5)
    np.testing.assert_allclose(bins, np.arange(grid.rows).mean() * grid.stride[0], rtol=1e-5)


def test_a_classifier_attends_but_cannot_hide(nano, sound):
    classifier = Classifier.from_pretrained(nano, ("a", "b")).eval()
    np.testing.assert_allclose(analysis.attend(classifier, sound).weights, analysis.attend(nano, sound).weights)
    with pytest.raises(ConfigError, match="Only a pretraining model can hide patches"):
        analysis.attend(classifier, sound, torch.ones(nano.grid.count, dtype=torch.bool))


# --- matches ------------------------------------------------------------------------------------------------------


def test_a_match_agrees_with_the_reconstruction(nano, sound):
    mask = analysis.draw_mask(analysis.Excerpt(0, sound, nano.grid), 0.5, seed=2)
    record, drawn = analysis.match(nano, sound, mask), analysis.reconstruct(nano, sound, mask)
    assert record.patches.tolist() == mask.nonzero()[:, 0].tolist()
    assert record.rank.tolist() == drawn.rank[drawn.mask].tolist()
    assert float((record.rank == 0).mean()) == pytest.approx(drawn.accuracy)
    hidden = len(record.patches)
    assert record.scores.shape == (hidden, hidden)
    for row in range(hidden):
        order = np.argsort(-record.scores[row], kind="stable")
        assert record.patches[order[:5]].tolist() == record.taken_for[row].tolist()
        assert order.tolist().index(row) == record.rank[row]
        column = np.argsort(-record.scores[:, row], kind="stable")
        assert column.tolist().index(row) == record.rank_among_predictions[row]


@pytest.mark.parametrize("share", [-0.1, 1.5, 400])
def test_a_share_is_between_0_and_1(nano, sound, share):
    with pytest.raises(ConfigError, match="The share of patches to hide is between 0 and 1"):
        analysis.draw_mask(analysis.Excerpt(0, sound, nano.grid), share)


def test_a_hiding_curve_is_what_single_masks_give(nano):
    piece = analysis.Excerpt(0.0, torch.randn(64, 128), nano.config.grid)
    counts = analysis.hiding_counts(nano.config.grid.count, 5)
    assert (counts[0], counts[-1]) == (1, nano.config.grid.count - 1)
    assert counts == sorted(set(counts))
    cluster = masking.usual_cluster(nano.config.grid)
    for count, record in zip(counts, analysis.hiding_curve(nano, piece, counts, cluster, seeds=3), strict=True):
        assert record.count == count
        assert (record.masks.sum(1) == count).all()
        for seed, mask in enumerate(torch.from_numpy(record.masks)):
            alone = analysis.reconstruct(nano, piece.fbank, mask)
            figures = (record.mse[seed], record.baseline[seed], record.nce[seed], record.accuracy[seed])
            np.testing.assert_allclose(figures, (alone.mse, alone.baseline, alone.nce, alone.accuracy), atol=1e-5)
    assert record.accuracy.shape == (3,)
    assert analysis.hiding_counts(1) == [1]


def test_a_fingerprint_tells_models_apart_and_loading_keeps_it(nano, tmp_path):
    from ssast_lab import checkpoint

    mark = analysis.fingerprint(nano)
    assert analysis.fingerprint(checkpoint.load(checkpoint.save(nano, tmp_path / "half", half=True))).agrees(mark)
    assert analysis.fingerprint(torch.nn.Linear(2, 2)) is None
    for name in checkpoint.builtin_models():  # as their files promise
        promised = checkpoint.describe(name)["about"]["fingerprint"]
        found = analysis.fingerprint(checkpoint.load(name))
        assert found.sound == promised["sound"]
        wanted = (*promised["log_mel"], *promised["tokens"], promised["attention"])
        np.testing.assert_allclose(found.figures, wanted, atol=1e-3)
        model = checkpoint.load(name)
        torch.nn.init.zeros_(model.encoder.blocks[3].attention.qkv.weight.data)  # as if one weight had been missed
        assert not analysis.fingerprint(model).agrees(found)
