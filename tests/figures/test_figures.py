"""Figures from hand-written records: what is where, in which unit, and what the pictures' pixels say."""

import base64
import io
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from ssast_lab import figures
from ssast_lab.analysis import Reconstruction
from ssast_lab.patches import PatchGrid

PATCHES = PatchGrid()
FRAMES = PatchGrid(shape=(128, 2), stride=(128, 2))
PICTURES = (figures.spectrogram, figures.patch_grid, figures.masked, figures.reconstruction, figures.error)


def record(grid: PatchGrid = PATCHES, hidden=(5, 70), start: float = 0.0) -> Reconstruction:
    """A ramp in time and pitch; the first hidden patch is recognised and drawn too loud by 1, the others are not."""
    original = np.linspace(-1, 1, grid.frames)[:, None] + np.linspace(-0.5, 0.5, grid.mel_bins)[None]
    mask, rank = np.zeros(grid.count, bool), np.full(grid.count, -1)
    mse, drawn = np.full(grid.count, np.nan), original.copy()
    for place, patch in enumerate(hidden):
        low, high, first, last = grid.bounds(patch)
        drawn[first:last, low:high] += 1.0 if place == 0 else 0.0
        mask[patch], rank[patch], mse[patch] = True, 7 * place, 1.0 if place == 0 else 0.0
    return Reconstruction(grid, start, original, mask, drawn, mse, rank, mse=0.5, baseline=0.7, nce=0.3,
                          accuracy=1 / len(hidden))  # fmt: skip


def pixels(figure: go.Figure, place: int = 0) -> np.ndarray:
    """(F, T, 4) of a picture, highest mel band first."""
    data = figure.layout.images[place].source.removeprefix("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")).astype(int)


def heatmaps(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_imports_no_torch():
    code = "import sys, ssast_lab.figures; sys.exit(any(n in sys.modules for n in ('torch', 'torchaudio', 'gradio')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("draw", PICTURES)
@pytest.mark.parametrize("grid", [PATCHES, FRAMES], ids=["patch", "frame"])
def test_every_picture_is_a_figure_with_seconds_and_hertz(draw, grid):
    figure = draw(record(grid))
    assert isinstance(figure, go.Figure)
    assert figure.layout.xaxis.title.text == "seconds"
    assert figure.layout.yaxis.title.text == "Hz"
    assert list(figure.layout.yaxis.ticktext) == ["100", "250", "500", "1k", "2k", "4k", "8k"]
    assert figure.to_json()


def test_ticks_stand_at_their_mel_filters():
    """Mel filter m has its peak at m on the axis."""
    from ssast_lab.patches import mel_edges

    peaks = mel_edges().numpy()[1:-1]
    ticks = figures.spectrogram(record()).layout.yaxis.tickvals
    for hertz, at in zip((100, 250, 500, 1000, 2000, 4000), ticks, strict=False):
        assert peaks[int(at)] <= hertz <= peaks[int(at) + 1]


def test_the_end_of_a_band_has_a_tick():
    for band, wanted in (
        ((150.0, 15_000.0), ["250", "500", "1k", "2k", "4k", "8k", "15k"]),
        ((8000.0, 48_000.0), ["8k", "16k", "32k", "48k"]),
        ((20.0, 4000.0), ["100", "250", "500", "1k", "2k", "4k"]),
    ):
        heard = replace(record(), grid=replace(record().grid, band=band))
        axis = figures.spectrogram(heard).layout.yaxis
        assert list(axis.ticktext) == wanted
        assert axis.tickvals[-1] == pytest.approx(heard.grid.mel_bins - 0.5, abs=1)


def test_overview_holds_five_pictures_on_one_time_axis():
    figure = figures.overview(record(start=3.0))
    assert len(figure.layout.images) == 5
    assert {image.xref for image in figure.layout.images} == {"x"}
    assert len({image.yref for image in figure.layout.images}) == 5
    domains = [figure.layout[f"yaxis{n or ''}"].domain for n in ("", 2, 3, 4, 5)]
    assert all(above[0] > below[1] for above, below in pairwise(domains))
    assert figure.layout.xaxis.range == pytest.approx((3.0075, 3.0075 + 10.24))
    for number, draw in enumerate(PICTURES):
        assert (pixels(draw(record(start=3.0))) == pixels(figure, number)).all()


def test_hidden_patches_are_blank_where_they_lie_and_nothing_else_is():
    one = record(hidden=(70,))
    low, high, first, last = PATCHES.bounds(70)
    shown, given = pixels(figures.spectrogram(one)), pixels(figures.masked(one))
    changed = (shown != given).any(-1)[::-1]  # lowest band first
    assert changed[low:high, first:last].all()
    assert changed.sum() == PATCHES.values
    assert len(np.unique(given[::-1][low:high, first:last].reshape(-1, 4), axis=0)) == 1


def test_reconstruction_shares_the_colours_of_the_original():
    one = record(hidden=(200, 201))
    low, high, first, last = PATCHES.bounds(200)
    changed = (pixels(figures.spectrogram(one)) != pixels(figures.reconstruction(one))).any(-1)[::-1]
    assert changed[low:high, first:last].mean() > 0.9  # drawn too loud by 1
    changed[low:high, first:last] = False
    assert not changed.any()  # patch 201 was drawn exactly, and the visible ones are themselves


def test_error_is_veiled_where_visible_dark_where_right_and_warm_where_too_loud():
    one = record(hidden=(200, 201))
    picture = pixels(figures.error(one))[::-1]
    loud, right = (picture[b[0] : b[1], b[2] : b[3]] for b in (PATCHES.bounds(200), PATCHES.bounds(201)))
    assert (loud[..., 0] > loud[..., 2] + 30).all()
    assert (right[..., :3] < 60).all()
    assert (picture[..., 3] == 255).sum() == 2 * PATCHES.values


@pytest.mark.parametrize("grid", [PATCHES, FRAMES], ids=["patch", "frame"])
def test_hover_tells_the_patch_its_place_and_its_fate(grid):
    figure = figures.overview(record(grid, hidden=(5, 70), start=2.0))
    assert len(heatmaps(figure)) == 5
    for cells in heatmaps(figure):
        texts = np.array(cells.text)
        assert texts.shape == (grid.rows, grid.columns) == cells.z.shape
        for patch in (0, 5, 70, grid.count - 1):
            row, column = divmod(patch, grid.columns)
            text = texts[row, column]
            begin, end = grid.seconds(patch)
            bottom, top = grid.hertz(patch)
            assert f" {patch}<" in text
            assert f"{begin + 2:.2f}–{end + 2:.2f} s" in text
            assert f"{bottom:.0f}–{top:.0f} Hz" in text
            middle = (cells.x0 + column * cells.dx, cells.y0 + row * cells.dy)
            assert begin + 2 < middle[0] < end + 2
            assert grid.bounds(patch)[0] < middle[1] < grid.bounds(patch)[1]
        flat = texts.ravel()
        assert flat[5].endswith("hidden, recognised<br>MSE 1.000")
        assert flat[70].endswith("hidden, not recognised: 7 of 1 others looked likelier<br>MSE 0.000")
        assert flat[0].endswith("visible")


def test_grid_colours_tell_recognised_from_mistaken():
    cells = heatmaps(figures.patch_grid(record()))[0]
    assert [cells.z.ravel()[patch] for patch in (0, 5, 70)] == [0, 1, 2]
    colours = {colour for _, colour in cells.colorscale}
    assert {figures.RIGHT, figures.WRONG} < colours


def test_no_line_between_frames_but_one_between_patches():
    lines = lambda figure: [t for t in figure.data if t.type == "scatter" and t.mode == "lines"]  # noqa: E731
    (drawn,) = lines(figures.patch_grid(record()))
    assert len(drawn.x) == 3 * (PATCHES.rows - 1 + PATCHES.columns - 1)
    (drawn,) = lines(figures.patch_grid(record(FRAMES)))
    assert not drawn.x


@pytest.mark.parametrize("grid", [replace(PATCHES, frames=304), replace(FRAMES, frames=300)], ids=["patch", "frame"])
def test_a_short_sound_fills_the_picture(grid):
    figure = figures.overview(record(grid))
    assert all(pixels(figure, n).shape[1] == 3 * grid.frames for n in range(5))  # every frame three pixels wide
    end = grid.frames * 0.01 + 0.0075
    assert figure.layout.images[0].x + figure.layout.images[0].sizex == pytest.approx(end)
    assert figure.layout.xaxis.range[1] == pytest.approx(end)


def test_a_gallery_has_three_pictures_of_each_sound_under_its_name():
    figure = figures.gallery([("a bird", record()), ("a word", record(replace(FRAMES, frames=100), hidden=(1, 2)))])
    assert len(figure.layout.images) == 6
    captions = [note.text for note in figure.layout.annotations]
    assert captions[3:] == ["a bird: MSE 0.500, 50.0% recognised", "a word: MSE 0.500, 50.0% recognised"]
    heard, given, drawn = (pixels(figure, place) for place in range(3))
    assert len(np.unique((heard != given).any(-1).nonzero()[1])) == 16 * 2  # columns of two hidden patches
    assert (heard != drawn).any()
    ranges = [figure.layout[f"xaxis{number}"].range for number in ("", 2, 3, 4)]
    assert ranges[0] == ranges[1] == ranges[2] != ranges[3]


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no browser")
def test_a_figure_becomes_an_image_file():
    figure = figures.gallery([("a bird", record())])
    picture = Image.open(io.BytesIO(figures.picture(figure, "png")))
    assert picture.size == (figure.layout.width, figure.layout.height)


def test_silence_has_a_picture_too():
    one = record(replace(PATCHES, frames=48), hidden=(5, 7))
    silent = Reconstruction(**{**vars(one), "original": np.zeros_like(one.original)})
    assert pixels(figures.overview(silent)).shape == (128, 21 * 48, 4)  # frames are widened to about a thousand pixels
