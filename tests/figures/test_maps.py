"""Maps of patches from hand-written records: every value at its patch's place, and the patch that is meant framed."""

import numpy as np
import pytest

from ssast_lab import figures
from ssast_lab.analysis import Attention, Match
from ssast_lab.masking import Coverage
from ssast_lab.patches import PatchGrid

PATCHES = PatchGrid(frames=64)
FRAMES = PatchGrid(frames=64, shape=(128, 2), stride=(128, 2))


def weights(grid: PatchGrid) -> np.ndarray:
    """(2, 3, K, K): in layer l, head h, every token attends mostly to patch l + 2 h."""
    tokens = grid.count + 2
    values = np.full((2, 3, tokens, tokens), 0.2 / tokens, np.float32)
    for layer in range(2):
        for head in range(3):
            values[layer, head, :, 2 + layer + 2 * head] += 0.8
    return values


@pytest.mark.parametrize("grid", [PATCHES, FRAMES], ids=["patch", "frame"])
def test_attention_lies_where_the_patches_lie(grid):
    record = Attention(grid, 3.0, None, weights(grid))
    figure = figures.attention(record, 7, layer=0, head=1)
    (heat,) = figure.data
    assert np.array(heat.z).ravel() == pytest.approx(100 * record.among_patches(0, 1)[7])
    assert np.array(heat.z).argmax() == 2
    for patch in (0, 7, grid.count - 1):
        row, column = divmod(patch, grid.columns)
        begin, end = grid.seconds(patch)
        assert heat.x[column] == pytest.approx(3.0 + (begin + end) / 2)
        low, high, _, _ = grid.bounds(patch)
        assert heat.y[row] == (low + high - 1) / 2
    frame = figure.layout.shapes[0]
    assert frame.x0 < heat.x[7 % grid.columns] < frame.x1
    assert frame.y0 < heat.y[7 // grid.columns] < frame.y1
    assert "layer 1, head 2" in figure.layout.title.text
    assert "layer 2, mean of all heads" in figures.attention(record, 7).layout.title.text


def test_a_match_is_a_probability_in_either_orientation():
    scores = np.array([[3.0, 1.0, 0.0], [2.0, 1.0, 0.0], [5.0, 0.0, 4.0]], np.float32)
    record = Match(
        PATCHES, np.array([4, 9, 20]), scores, np.array([0, 1, 1]), np.array([1, 0, 0]), np.zeros((3, 3), int)
    )
    paper, official = figures.match(record), figures.match(record, among_predictions=True)
    for figure, axis, right in ((paper, 1, 1), (official, 0, 2)):
        (heat,) = figure.data
        likelihood = np.array(heat.customdata)
        np.testing.assert_allclose(likelihood.sum(axis), 1)
        np.testing.assert_allclose(10.0 ** np.array(heat.z), likelihood)
        assert (likelihood.argmax(axis) == scores.argmax(axis)).all()
        assert list(heat.x) == list(heat.y) == ["4", "9", "20"]
        assert figure.layout.title.text == f"{right} of 3 hidden patches recognised"
    assert paper.layout.yaxis.autorange == "reversed"  # the diagonal runs down


def test_coverage_shows_every_row_and_column():
    rate = np.linspace(0.2, 0.8, PATCHES.count).reshape(PATCHES.rows, PATCHES.columns)
    record = Coverage(1000, rate, rate.mean(1), rate.mean(0), np.array([3, 4]))
    heat, rows, columns = figures.coverage(record, PATCHES).data
    np.testing.assert_allclose(np.array(heat.z), 100 * rate)
    assert (heat.zmin + heat.zmax) / 2 == pytest.approx(50)
    np.testing.assert_allclose(rows.x, 100 * rate.mean(1))
    np.testing.assert_allclose(columns.y, 100 * rate.mean(0))
    assert rows.y[0] < rows.y[-1]  # from the lowest band upwards
