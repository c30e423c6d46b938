"""Pictures that are drawn without a browser."""

import importlib
import io

import numpy as np
import pytest
from PIL import Image, ImageFont
from plotly.colors import sequential

from ssast_lab import figures
from ssast_lab.analysis import Attention, Excerpt, Hiding, Match
from ssast_lab.masking import Coverage
from ssast_lab.patches import PatchGrid

still = importlib.import_module("ssast_lab.figures.still")  # the package has a function of this name


def drawn(label: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(still.confusion((label, "b"), np.array([[1, 2], [0, 3]])))))


@pytest.mark.parametrize("installed", [True, False], ids=["a font", "no font"])
def test_names_with_marks_can_be_read(installed, monkeypatch):
    """By a font of the machine, or without their marks; letters that cannot be drawn would all look the same."""
    if not installed:
        monkeypatch.setattr(still, "FONTS", ("there-is-none.ttf",))
    names, font = still._written(("Käuze", "été", "b"), 24)
    if isinstance(font, ImageFont.FreeTypeFont) and font.getname()[0] != "Aileron":
        assert names == ["Käuze", "été", "b"]
        letters = [font.getmask(letter).getbbox() and bytes(font.getmask(letter)) for letter in "äéß"]
        assert len(set(letters)) == 3
    else:
        assert names == ["Kauze", "ete", "b"]
        assert np.array_equal(drawn("Käuze"), drawn("Kauze"))
    assert not np.array_equal(drawn("Käuze"), drawn("Keuze"))


def test_other_letters_are_question_marks_where_no_font_has_them(monkeypatch):
    monkeypatch.setattr(still, "FONTS", ())
    assert still._written(("鳥",), 24)[0] == ["?"]


# --- maps of patches ----------------------------------------------------------------------------------------------

GRID = PatchGrid(frames=96)  # 8 x 6 patches
MIDDLE = figures.theme.palette(sequential.Viridis).astype(float)


def read(png: bytes, row: int, shape: tuple[int, int] = (GRID.rows, GRID.columns)) -> np.ndarray:
    """(rows, columns): the values that the colours of the patches of one map stand for, from 0 to 1, low bands first; NaN where
    it is grey."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA").convert("RGB")).astype(float)
    top, scale = still.SCALE * (row * (still.ROW + still.HEADING) + still.HEADING), still.SCALE
    high, wide = scale * still.ROW / shape[0], scale * (still.WIDE - still.LEFT - 2) / shape[1]
    y = (top + (np.arange(shape[0])[::-1] + 0.5) * high).astype(int)
    x = (scale * still.LEFT + (np.arange(shape[1]) + 0.5) * wide).astype(int)
    colours = picture[y][:, x]
    away = np.linalg.norm(colours[:, :, None] - MIDDLE, axis=-1)
    return np.where(np.ptp(colours, axis=-1) < 30, np.nan, away.argmin(-1) / 254)


def scaled(values: np.ndarray) -> np.ndarray:
    return (values - np.nanmin(values)) / np.ptp(values[np.isfinite(values)])


def test_attention_is_drawn_as_what_each_patch_receives():
    weights = np.random.default_rng(0).dirichlet(np.full(GRID.count + 2, 0.05), (3, 2, GRID.count + 2))
    record = Attention(GRID, 1.5, None, weights.astype(np.float32))
    received = [weights[layer].mean(0)[2:, 2:].mean(0) for layer in range(3)] + [record.rollout()[2:, 2:].mean(0)]
    drawn = np.stack([read(figures.still(record), row) for row in range(4)])
    np.testing.assert_allclose(drawn.reshape(4, -1), scaled(np.stack(received)), atol=0.06)


def test_a_match_is_drawn_as_the_places_of_the_hidden_patches():
    patches, rank = np.array([0, 7, 20, 47]), np.array([3, 0, 1, 2])
    record = Match(GRID, patches, np.eye(4, dtype=np.float32), rank, rank, patches[:, None])
    wanted = np.full(GRID.count, np.nan)
    wanted[patches] = rank / 3
    np.testing.assert_allclose(read(figures.still(record), 0).ravel(), wanted, atol=0.06)


def test_coverage_is_drawn_as_the_rates():
    rate = np.random.default_rng(1).random((8, 20))
    record = Coverage(100, rate, rate.mean(1), rate.mean(0), np.array([1]))
    np.testing.assert_allclose(read(figures.still(record), 0, rate.shape), scaled(rate), atol=0.06)


def test_equal_values_and_none_at_all_are_drawn():
    same = Coverage(1, np.ones((8, 6)), np.ones(8), np.ones(6), np.array([48]))
    assert (read(figures.still(same), 0) == read(figures.still(same), 0)[0, 0]).all()
    nothing = np.empty(0, int)
    none = Match(GRID, nothing, np.empty((0, 0), np.float32), nothing, nothing, nothing[:, None])
    assert np.isnan(read(figures.still(none), 0)).all()


def test_an_excerpt_is_drawn_as_its_log_mel():
    ramp = np.linspace(-1, 1, 96, dtype=np.float32)[:, None].repeat(128, 1)
    picture = Image.open(io.BytesIO(figures.still(Excerpt(0.0, ramp, GRID)))).convert("RGBA").convert("L")
    line = np.asarray(picture)[still.SCALE * (still.HEADING + still.ROW // 2), still.SCALE * still.LEFT + 10 : -20]
    assert line[-1] > 200
    assert line[0] < 20
    assert (np.diff(line.astype(int)) >= -4).all()  # brighter and brighter, but for what 255 colours round


@pytest.mark.parametrize("seconds", [150, 900])
def test_a_window_of_minutes_is_drawn(seconds):
    grid = PatchGrid(frames=100 * seconds)
    picture = Image.open(io.BytesIO(figures.still(Excerpt(0.0, np.zeros((100 * seconds, 128), np.float32), grid))))
    assert picture.size[0] == still.SCALE * still.WIDE


def test_other_records_are_told_what_to_do():
    record = Hiding(1, np.ones((1, 48), bool), *np.ones((4, 1)))
    with pytest.raises(TypeError, match=r"of a Hiding, only of Reconstruction.*pip install 'ssast-lab\[pictures\]'"):
        figures.still(record)
    with pytest.raises(TypeError, match="of a dict"):
        figures.still({})
