"""Windows of sounds as points: where they begin, what they are as embeddings, and layouts that keep neighbours together."""

import numpy as np
import pytest
import torch

from ssast_lab import audio
from ssast_lab.measuring import points, windows
from ssast_lab.measuring.upstreams import LogMel, of_encoder


def split(wave, *sizes):
    """The wave in blocks of these sizes, over and over."""
    place = 0
    while place < len(wave):
        for size in sizes:
            yield wave[place : place + size]
            place += size


@pytest.mark.parametrize(
    ("samples", "window", "hop", "least", "first"),
    [
        (3000, 1000, 1000, 250, [0, 1000, 2000]),
        (3100, 1000, 1000, 250, [0, 1000, 2000]),  # too little is left for a fourth
        (3100, 1000, 1000, 1, [0, 1000, 2000, 2100]),  # which ends with the sound
        (3500, 1000, 1000, 250, [0, 1000, 2000, 2500]),
        (3500, 1000, 500, 1, [0, 500, 1000, 1500, 2000, 2500]),
        (3600, 1000, 500, 1, [0, 500, 1000, 1500, 2000, 2500, 2600]),
        (3600, 1000, 1500, 1, [0, 1500, 2600]),
        (100, 1000, 500, 250, [0]),
        (1000, 1000, 500, 250, [0]),
        (0, 1000, 500, 250, [0]),
    ],
)
@pytest.mark.parametrize("sizes", [(10_000,), (1,), (7, 400, 1), (1000,), (999, 1001)])
def test_windows_cover_a_sound_however_it_arrives(samples, window, hop, least, first, sizes):
    wave = torch.arange(samples, dtype=torch.float32)
    found = [*windows.cut(split(wave, *sizes), window, hop, least)]
    assert [at for at, _ in found] == first
    for at, piece in found:
        assert torch.equal(piece, wave[at : at + window])


@pytest.mark.parametrize("sizes", [(10_000,), (1,), (999, 1001)])
def test_the_last_window_may_lie_on_a_grid(sizes):
    wave = torch.arange(3630, dtype=torch.float32)
    found = [*windows.cut(split(wave, *sizes), 1000, 1000, 50, 50)]
    assert [at for at, _ in found] == [0, 1000, 2000, 2600]
    assert all(torch.equal(piece, wave[at : at + 1000]) for at, piece in found)
    assert [at for at, _ in windows.cut([wave[:3049]], 1000, 1000, 50, 50)] == [0, 1000, 2000]


@pytest.mark.parametrize("seconds", [0.64, 1.3])
def test_windows_are_embedded_as_sounds_by_themselves(nano, seconds, monkeypatch):
    monkeypatch.setattr(windows, "BATCH_SECONDS", 2)
    wave = audio.load_waveform(audio.builtin_sounds()["tabla"]["path"])[: 5 * audio.SAMPLE_RATE]
    upstream = of_encoder("nano", nano.encoder)
    parts = [*windows.embed_windows(upstream, wave, seconds)]
    first, found = [at for where, _ in parts for at in where], np.concatenate([part for _, part in parts])
    size = round(seconds * audio.SAMPLE_RATE)
    alone = [upstream.embed(wave[None, round(at * audio.SAMPLE_RATE) :][:, :size], "mean")[0].numpy() for at in first]
    assert found.shape == (len(first), nano.config.depth, nano.config.width)
    assert first[:2] == [0, seconds]
    assert first[-1] == pytest.approx(5 - seconds)
    np.testing.assert_allclose(found, np.stack(alone), atol=5e-3)


def clouds(each=30):
    """Three far apart, and which is which."""
    random = np.random.default_rng(0)
    centres = 8 * random.standard_normal((3, 24))
    return np.concatenate([centre + random.standard_normal((each, 24)) for centre in centres]), np.repeat(
        np.arange(3), each
    )


@pytest.mark.filterwarnings("ignore")  # of numba and umap themselves
@pytest.mark.parametrize("method", points.METHODS)
def test_layouts_keep_neighbours_together(method):
    if method == "umap":
        pytest.importorskip("umap")
    values, cloud = clouds()
    laid = points.lay_out(values, method)
    assert laid.shape == (90, 2)
    assert np.isfinite(laid).all()
    apart = ((laid[:, None] - laid) ** 2).sum(-1) + 1e9 * np.eye(90)
    assert (cloud[apart.argmin(1)] == cloud).mean() > 0.97
    np.testing.assert_array_equal(laid, points.lay_out(values, method))  # the same each time


def test_principal_axes_are_those_of_an_svd():
    values, _ = clouds()
    centred = values - values.mean(0)
    _, _, axes = np.linalg.svd(centred)
    wanted = centred @ axes[:2].T
    found = points.lay_out(values)
    signs = np.sign((wanted * found).sum(0))
    np.testing.assert_allclose(found, wanted * signs, atol=1e-3)
    for many in range(4):
        assert points.lay_out(values[:many]).shape == (many, 2)


def test_groups_are_the_clouds_and_the_nearest_is_itself():
    values, cloud = clouds()
    groups = points.alike(values, 3)
    assert all(len(set(groups[cloud == one])) == 1 for one in range(3))
    assert len(set(groups)) == 3
    best, cosines = points.nearest(values, values[17], 5)
    assert best[0] == 17
    assert cosines[0] == pytest.approx(1, abs=1e-5)
    assert (np.diff(cosines) <= 0).all()
    assert (cloud[best] == cloud[17]).all()


def test_real_sounds_lie_with_their_own_kind():
    """Even the statistics of the log-mel know tabla from water."""
    names = ["tabla", "water", "speech"]
    parts = [
        np.concatenate(
            [
                part
                for _, part in windows.embed_windows(
                    LogMel(), audio.load_waveform(audio.builtin_sounds()[name]["path"]), 1.0
                )
            ]
        )[:, 0]
        for name in names
    ]
    whose = np.repeat(np.arange(len(names)), [len(part) for part in parts])
    values = np.concatenate(parts)
    right = [whose[points.nearest(values, values[at], 2)[0][1]] == whose[at] for at in range(len(values))]
    assert np.mean(right) > 0.8
