"""What a patch attends to, what hidden patches are taken for, and how masks cover the grid, as maps of patches.

Axes: N patches, M hidden patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ssast_lab.figures.sounds import DEVIATION, LOUDNESS, edge, ticks_of
from ssast_lab.figures.theme import FONT, TEXT

if TYPE_CHECKING:
    from ssast_lab.analysis import Attention, Match
    from ssast_lab.masking import Coverage
    from ssast_lab.patches import PatchGrid

PIN = "#ffd43b"  # the patch that a map is about
LOOK: dict[str, Any] = dict(
    font=dict(family=FONT, size=11, color=TEXT), paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
    margin=dict(l=50, r=10, t=40, b=42),
)  # fmt: skip


def attention(record: Attention, patch: int, layer: int = -1, head: int | None = None) -> go.Figure:
    """How much a patch attends to every patch, in percent, in one head of a layer or the mean of all."""
    grid, weights = record.grid, record.among_patches(layer, head)[patch]
    low, high, first, end = grid.bounds(patch)
    where = f"layer {range(len(record.weights))[layer] + 1}, " + (
        "mean of all heads" if head is None else f"head {head + 1}"
    )
    frame = dict(type="rect", x0=edge(grid, record.start, first), x1=edge(grid, record.start, end), y0=low - 0.5, y1=high - 0.5,
                 line=dict(color=PIN, width=2))  # fmt: skip
    heat = _heatmap(grid, record.start, 100 * weights, "%{z:.2f} % of the attention")
    bar = dict(title=dict(text="%"), thickness=10)
    layout = (
        LOOK
        | _axes(grid)
        | dict(title=dict(text=f"What patch {patch} attends to: {where}"), shapes=[frame], height=280)
    )
    return go.Figure(dict(data=[heat | dict(colorscale=list(LOUDNESS), zmin=0, colorbar=bar)], layout=layout))


def received(record: Attention) -> dict[str, np.ndarray]:
    """(N,) percent by layer: how much all patches attend to each in the mean, in the first, middle and last layer, and over all."""
    depth, special = len(record.weights), record.weights.shape[-1] - record.grid.count
    layers = {f"layer {layer + 1}": record.among_patches(layer).mean(0) for layer in sorted({0, depth // 2, depth - 1})}
    rollout = record.rollout()[special:, special:].mean(0)
    return {name: 100 * values for name, values in (layers | {"all layers (rollout)": rollout}).items()}


def places(record: Match) -> dict[str, np.ndarray]:
    """(N,) by what it is: the place of the true patch for each prediction; NaN where the patch was visible."""
    ranks = np.full(record.grid.count, np.nan)
    ranks[record.patches] = record.rank
    return {f"Place of the true patch among {len(record.patches)} (0: recognised)": ranks}


def match(record: Match, among_predictions: bool = False) -> go.Figure:
    """How likely each hidden patch (column) is to be what is predicted at each (row): the paper's softmax over the patches, or
    the official code's over the predictions. The diagonal is right."""
    scores = record.scores.astype(float)
    axis = 0 if among_predictions else 1
    shifted = scores - scores.max(axis, keepdims=True)
    likelihood = np.exp(shifted) / np.exp(shifted).sum(axis, keepdims=True)
    names = [str(patch) for patch in record.patches]
    side = dict(type="category", nticks=8, showgrid=False, constrain="domain")
    heat = dict(
        type="heatmap", x=names, y=names, z=np.log10(likelihood.clip(1e-9)), customdata=likelihood, colorscale=list(LOUDNESS),
        zmin=-np.log10(len(names)) - 0.5, zmax=0, hovertemplate="patch %{x} for the prediction at %{y}: %{customdata:.1%}<extra></extra>",
        colorbar=dict(title=dict(text="probability"), tickvals=[0, -1, -2, -3], ticktext=["1", "0.1", "0.01", "0.001"], thickness=10),
    )  # fmt: skip
    right = (record.rank_among_predictions if among_predictions else record.rank) == 0
    layout = LOOK | dict(
        title=dict(text=f"{right.sum()} of {len(names)} hidden patches recognised"), height=520, width=600,
        xaxis=side | dict(title=dict(text="true patch")),
        yaxis=side | dict(title=dict(text="prediction at"), autorange="reversed", scaleanchor="x"),
    )  # fmt: skip
    return go.Figure(dict(data=[heat], layout=layout))


def coverage(record: Coverage, grid: PatchGrid) -> go.Figure:
    """How often each patch is hidden, in percent of the masks, and the means of each row and column: what is as often hidden as
    it should be is dark."""
    share = 100 * float(record.rate.mean())
    most = min(max(float(np.abs(100 * record.rate - share).max()), 1.0), 25.0)
    heat = _heatmap(grid, 0.0, 100 * record.rate.ravel(), "hidden in %{z:.1f} % of the masks")
    tint = dict(
        colorscale=list(DEVIATION),
        zmin=share - most,
        zmax=share + most,
        colorbar=dict(title=dict(text="%"), thickness=10),
    )
    bars: dict[str, Any] = dict(type="bar", marker=dict(color=TEXT), showlegend=False)
    rows = bars | dict(orientation="h", x=100 * record.per_row, y=_bins(grid), xaxis="x2", yaxis="y",
                       hovertemplate="%{x:.1f} %<extra></extra>")  # fmt: skip
    columns = bars | dict(x=_middles(grid, 0.0), y=100 * record.per_column, xaxis="x", yaxis="y2",
                          hovertemplate="%{y:.1f} %<extra></extra>")  # fmt: skip
    axes, ends = _axes(grid), [max(share - most, 0), min(share + most, 100)]
    layout = LOOK | dict(
        title=dict(text=f"How often each patch is hidden over {record.masks:,} masks ({share:.1f} % in the mean)"), height=360, bargap=0.1,
        xaxis=axes["xaxis"] | dict(domain=[0, 0.84], anchor="y2"), yaxis=axes["yaxis"] | dict(domain=[0.32, 1]),
        xaxis2=dict(domain=[0.87, 1], anchor="y", range=ends, ticksuffix=" %", nticks=3, showgrid=False),
        yaxis2=dict(domain=[0, 0.26], anchor="x", range=ends, ticksuffix=" %", nticks=3, showgrid=False),
    )  # fmt: skip
    return go.Figure(dict(data=[heat | tint, rows, columns], layout=layout))


def _heatmap(grid: PatchGrid, start: float, values: np.ndarray, words: str) -> dict[str, Any]:
    """(N,) as a heatmap of the grid over seconds and mel bins."""
    numbers = np.arange(grid.count).reshape(grid.rows, grid.columns)
    return dict(
        type="heatmap", x=_middles(grid, start), y=_bins(grid), z=values.reshape(grid.rows, grid.columns), customdata=numbers,
        hovertemplate=f"patch %{{customdata}}, %{{x:.2f}} s<br>{words}<extra></extra>",
    )  # fmt: skip


def _axes(grid: PatchGrid) -> dict[str, Any]:
    hertzes = ticks_of(grid)
    ticks = dict(tickvals=[grid.mel_bin(hertz) for hertz in hertzes], ticktext=[*hertzes.values()])
    bins = dict(range=[-0.5, grid.mel_bins - 0.5], title=dict(text="Hz"), showgrid=False, zeroline=False)
    return dict(xaxis=dict(title=dict(text="seconds"), showgrid=False, zeroline=False), yaxis=bins | ticks)


def _middles(grid: PatchGrid, start: float) -> np.ndarray:
    """(columns,) seconds"""
    return np.array([edge(grid, start, column * grid.stride[1] + grid.shape[1] / 2) for column in range(grid.columns)])


def _bins(grid: PatchGrid) -> np.ndarray:
    """(rows,) mel bins"""
    return np.arange(grid.rows) * grid.stride[0] + grid.shape[0] / 2 - 0.5
