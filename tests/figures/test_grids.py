"""Values of patches and simple numbers: what is drawn is what was given, in its place."""

import re

import numpy as np
import pytest

from ssast_lab import figures
from ssast_lab.patches import PatchGrid

GRID = PatchGrid(mel_bins=32, frames=64)


def test_maps_keep_rows_and_share_a_scale():
    first, second = np.arange(GRID.count, dtype=float), -np.ones(GRID.count)
    figure = figures.maps({"first": first, "second": second}, GRID)
    one, other = figure.data
    assert np.array_equal(np.asarray(one.z), first.reshape(2, 4))  # the lowest band first, and heat maps draw it below
    assert (one.zmin, one.zmax) == (other.zmin, other.zmax) == (-1, 7)
    assert [note.text for note in figure.layout.annotations] == ["<b>first</b>", "<b>second</b>"]
    assert figures.maps({"first": first}, GRID, scale=(0, 100)).data[0].zmax == 100


def test_maps_leave_out_what_is_not_known():
    values = np.full(GRID.count, np.nan)
    values[3] = 2.0
    assert figures.maps({"one": values}, GRID).data[0].zmax == 2


@pytest.mark.parametrize(("size", "written"), [(4, True), (40, False)])
def test_a_matrix_has_its_first_row_on_top_and_writes_few_numbers(size, written):
    figure = figures.matrix(np.eye(size), "identity", "column", "row")
    assert figure.layout.yaxis.autorange == "reversed"
    assert bool(figure.data[0].texttemplate) == written


def test_a_waveform_keeps_its_extremes():
    samples = np.zeros(100_000, np.float32)
    samples[54_321], samples[777] = 0.9, -0.8
    drawn = np.asarray(figures.waveform(samples, 16_000).data[0].y)
    assert (drawn.max(), drawn.min()) == (np.float32(0.9), np.float32(-0.8))
    assert len(drawn) < 20_000


def test_series_and_points_name_what_they_draw():
    figure = figures.series([1, 2, 3], {"a": [1, 2, 3], "b": [3, 2, 1]}, "place", "value")
    assert [trace.name for trace in figure.data] == ["a", "b"]
    assert figure.layout.xaxis.title.text == "place"
    at = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    figure = figures.points({"left": at, "right": -at}, ["x", "y", "x"])
    assert [(trace.name, len(trace.x)) for trace in figure.data] == [("x", 2), ("y", 1)] * 2


def test_curves_end_where_the_run_is():
    trained = {
        "step": list(range(1, 101)),
        **{name: list(np.linspace(4, 1, 100)) for name in ("nce", "mse")},
        "accuracy": list(np.linspace(0, 0.4, 100)),
    }
    held_out = {"step": [50, 100], "nce": [3.0, 2.0], "accuracy": [0.1, 0.3], "mse": [2.0, float("nan")]}
    drawn = figures.curves_svg(trained, held_out, chance=0.01)
    assert drawn.count("<polyline") == 7  # three curves, three of the held-out clips, and guessing
    assert drawn.count("<circle") == 5  # what is no number is left out
    ends = [line.split()[-1] for line in re.findall(r'points="([^"]*)" fill="none" stroke="#', drawn) if line]
    assert all("nan" not in end for end in ends)
    assert ">100<" in drawn
    assert figures.curves_svg(trained, held_out, 0.01, held_out).count("<polyline") == 10
    empty = {name: [] for name in ("step", "nce", "accuracy", "mse")}
    assert figures.curves_svg(empty, empty).count("<polyline") == 6
