"""Windows of sounds as points: where they begin, what they are as embeddings, and layouts that keep neighbours together."""

import numpy as np
import pytest

from ssast_lab import audio
from ssast_lab.measuring import windows
from ssast_lab.measuring.upstreams import LogMel, of_encoder


def test_windows_cover_a_sound():
    rate = audio.SAMPLE_RATE
    assert windows.starts(3 * rate, 1.0) == [0, rate, 2 * rate]
    assert windows.starts(3 * rate + rate // 10, 1.0) == [0, rate, 2 * rate]  # too little is left for a fourth
    assert windows.starts(3 * rate + rate // 2, 1.0) == [0, rate, 2 * rate, 3 * rate]
    assert windows.starts(100, 1.0) == [0]


@pytest.mark.parametrize("seconds", [0.64, 1.3])
def test_windows_are_embedded_as_sounds_by_themselves(nano, seconds, monkeypatch):
    monkeypatch.setattr(windows, "BATCH_SECONDS", 2)
    wave = audio.load_waveform(audio.builtin_sounds()["tabla"]["path"])[: 5 * audio.SAMPLE_RATE]
    upstream = of_encoder("nano", nano.encoder)
    found = np.concatenate([*windows.embed_windows(upstream, wave, seconds)])
    first = windows.starts(len(wave), seconds)
    size = round(seconds * audio.SAMPLE_RATE)
    alone = [upstream.embed(wave[None, at : at + size], "mean")[0].numpy() for at in first]
    assert found.shape == (len(first), nano.config.depth, nano.config.width)
    np.testing.assert_allclose(found, np.stack(alone), atol=5e-3)


def clouds(each=30):
    """Three far apart, and which is which."""
    random = np.random.default_rng(0)
    centres = 8 * random.standard_normal((3, 24))
    return np.concatenate([centre + random.standard_normal((each, 24)) for centre in centres]), np.repeat(
        np.arange(3), each
    )


@pytest.mark.filterwarnings("ignore")  # of numba and umap themselves
@pytest.mark.parametrize("method", windows.METHODS)
def test_layouts_keep_neighbours_together(method):
    if method == "umap":
        pytest.importorskip("umap")
    values, cloud = clouds()
    points = windows.lay_out(values, method)
    assert points.shape == (90, 2)
    assert np.isfinite(points).all()
    apart = ((points[:, None] - points) ** 2).sum(-1) + 1e9 * np.eye(90)
    assert (cloud[apart.argmin(1)] == cloud).mean() > 0.97
    np.testing.assert_array_equal(points, windows.lay_out(values, method))  # the same each time


def test_principal_axes_are_those_of_an_svd():
    values, _ = clouds()
    centred = values - values.mean(0)
    _, _, axes = np.linalg.svd(centred)
    wanted = centred @ axes[:2].T
    found = windows.lay_out(values)
    signs = np.sign((wanted * found).sum(0))
    np.testing.assert_allclose(found, wanted * signs, atol=1e-3)
    for many in range(4):
        assert windows.lay_out(values[:many]).shape == (many, 2)


def test_groups_are_the_clouds_and_the_nearest_is_itself():
    values, cloud = clouds()
    groups = windows.alike(values, 3)
    assert all(len(set(groups[cloud == one])) == 1 for one in range(3))
    assert len(set(groups)) == 3
    best, cosines = windows.nearest(values, values[17], 5)
    assert best[0] == 17
    assert cosines[0] == pytest.approx(1, abs=1e-5)
    assert (np.diff(cosines) <= 0).all()
    assert (cloud[best] == cloud[17]).all()


def test_real_sounds_lie_with_their_own_kind():
    """Even the statistics of the log-mel know tabla from water."""
    names = ["tabla", "water", "speech"]
    parts = [
        np.concatenate(
            [*windows.embed_windows(LogMel(), audio.load_waveform(audio.builtin_sounds()[name]["path"]), 1.0)]
        )[:, 0]
        for name in names
    ]
    whose = np.repeat(np.arange(len(names)), [len(part) for part in parts])
    values = np.concatenate(parts)
    right = [whose[windows.nearest(values, values[at], 2)[0][1]] == whose[at] for at in range(len(values))]
    assert np.mean(right) > 0.8
