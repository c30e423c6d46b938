"""Values of patches, on their grid and against each other, and simple series of numbers.

Axes: S samples, N patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sequential

from ssast_lab.figures.charts import HUES as HUES_OF_MANY
from ssast_lab.figures.sounds import DEVIATION
from ssast_lab.figures.theme import FONT, RIGHT, TEXT, WRONG, axis_name

if TYPE_CHECKING:
    from ssast_lab.patches import PatchGrid

ROW, GAP = 92, 38  # pixels
HUES = (sequential.Magma[4], RIGHT, WRONG, "#3f8fe0", "#b8860b", TEXT)


def maps(
    named: Mapping[str, np.ndarray], grid: PatchGrid, scale: tuple[float, float] | None = None, columns: int = 2,
    diverging: bool = False,
) -> go.Figure:  # fmt: skip
    """A heat map for each name: (N,) values of patches, low bands below. All share one ``scale`` (least, most); None: that of
    their own values. ``diverging`` has its middle colour in the middle of the scale."""
    values = np.concatenate([np.ravel(one) for one in named.values()]).astype(float)
    low, high = scale or (float(np.nanmin(values)), float(np.nanmax(values)))
    columns = min(columns, len(named))
    rows = -(-len(named) // columns)
    inner, wide = rows * (ROW + GAP) - GAP, (1 - 0.03 * (columns - 1)) / columns
    layout: dict[str, Any] = {"annotations": []}
    traces = []
    for place, (name, one) in enumerate(named.items()):
        row, column = divmod(place, columns)
        x, y = axis_name("x", place + 1), axis_name("y", place + 1)
        left, top = column * (wide + 0.03), 1 - row * (ROW + GAP) / inner
        layout["xaxis" + x[1:]] = dict(domain=[left, min(left + wide, 1)], anchor=y, showgrid=False, ticks="outside", ticklen=3,
                                       showticklabels=True)  # fmt: skip
        layout["yaxis" + y[1:]] = dict(domain=[max(top - ROW / inner, 0), top], anchor=x, showgrid=False, ticks="outside",
                                       ticklen=3, tickvals=[0, grid.rows - 1])  # fmt: skip
        layout["annotations"].append(dict(text=f"<b>{name}</b>", x=left, y=top, xref="paper", yref="paper", xanchor="left",
                                          yanchor="bottom", showarrow=False, font=dict(size=12)))  # fmt: skip
        picture = np.asarray(one, np.float32).reshape(grid.rows, grid.columns)
        traces.append(dict(
            type="heatmap", z=picture, xaxis=x, yaxis=y, zmin=low, zmax=high, showscale=place == 0,
            colorscale=list(DEVIATION if diverging else sequential.Viridis), colorbar=dict(thickness=9, tickfont=dict(size=10)),
            hovertemplate="row %{y}, column %{x}: %{z:.3g}<extra></extra>",
        ))  # fmt: skip
    return go.Figure(dict(data=traces, layout=_style(inner + 70) | layout))


def matrix(values: np.ndarray, title: str, across: str, down: str, diverging: bool = False) -> go.Figure:
    """(rows, columns) numbers as a heat map, the first row on top; few of them are written into their cells."""
    values = np.asarray(values, np.float32)
    few = values.size <= 64
    trace = dict(type="heatmap", z=values, colorscale=list(DEVIATION if diverging else sequential.Viridis), zmid=0 if diverging else None,
                 colorbar=dict(thickness=9), hovertemplate=f"{down} %{{y}}, {across} %{{x}}: %{{z:.3g}}<extra></extra>",
                 texttemplate="%{z:.2f}" if few else None)  # fmt: skip
    steps = dict(dtick=1) if few else {}
    axes = dict(xaxis=dict(title=across, constrain="domain", showgrid=False, **steps),
                yaxis=dict(title=down, autorange="reversed", scaleanchor="x", constrain="domain", showgrid=False, **steps))  # fmt: skip
    return go.Figure(
        dict(
            data=[trace],
            layout=_style(380)
            | axes
            | {"title": dict(text=title, font=dict(size=13)), "margin": dict(t=48, l=60, r=8, b=48)},
        )
    )


def series(
    at: Sequence[float] | np.ndarray, named: Mapping[str, Sequence[float] | np.ndarray], what: str, measure: str, logarithmic: bool = False
) -> go.Figure:  # fmt: skip
    """Lines over common places: ``what`` is measured at ``at``."""
    traces = [dict(type="scatter", mode="lines+markers" if len(at) < 40 else "lines", name=name, x=list(at), y=list(values),
                   line=dict(color=HUES[number % len(HUES)], width=2)) for number, (name, values) in enumerate(named.items())]  # fmt: skip
    rule = dict(gridcolor="rgba(128,134,145,0.2)", zeroline=False)
    axes = dict(xaxis=dict(title=what, **rule), yaxis=dict(title=measure, type="log" if logarithmic else None, **rule))
    return go.Figure(dict(data=traces, layout=_style(300) | axes | {"showlegend": True}))


def waveform(samples: np.ndarray, rate: int, most: int = 4000) -> go.Figure:
    """(S,) as its least and greatest values in ``most`` pieces: what an eye can see of it."""
    samples = np.asarray(samples, np.float32)
    size = max(len(samples) // most, 1)
    pieces = samples[: len(samples) // size * size].reshape(-1, size)
    seconds = np.arange(len(pieces)) * size / rate
    trace = dict(type="scatter", mode="lines", x=np.repeat(seconds, 2), y=np.stack([pieces.min(1), pieces.max(1)], 1).ravel(),
                 line=dict(width=1, color=HUES[0]), hoverinfo="skip")  # fmt: skip
    rule = dict(gridcolor="rgba(128,134,145,0.2)")
    return go.Figure(
        dict(
            data=[trace],
            layout=_style(180) | dict(xaxis=dict(title="seconds", **rule), yaxis=dict(title="pressure", **rule)),
        )
    )


def _style(height: int) -> dict[str, Any]:
    return dict(
        height=height, margin=dict(l=46, r=20, t=30, b=40), font=dict(family=FONT, size=11, color=TEXT), paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", showlegend=False,
    )  # fmt: skip


def points(named: Mapping[str, np.ndarray], labels: Sequence[str]) -> go.Figure:
    """(n, 2) places of the same n things, side by side for each name; a colour for each label."""
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": []}
    wide = (1 - 0.05 * (len(named) - 1)) / len(named)
    for place, (name, at) in enumerate(named.items()):
        x, y, left = axis_name("x", place + 1), axis_name("y", place + 1), place * (wide + 0.05)
        bare = dict(showticklabels=False, showgrid=False, zeroline=False)
        layout |= {
            "xaxis" + x[1:]: bare | dict(domain=[left, min(left + wide, 1)], anchor=y),
            "yaxis" + y[1:]: bare | dict(anchor=x),
        }
        layout["annotations"].append(dict(text=f"<b>{name}</b>", x=left, y=1, xref="paper", yref="paper", xanchor="left",
                                          yanchor="bottom", showarrow=False))  # fmt: skip
        for number, label in enumerate(dict.fromkeys(labels)):
            own = np.array([one == label for one in labels])
            traces.append(dict(type="scatter", mode="markers", name=label, legendgroup=label, showlegend=place == 0, xaxis=x, yaxis=y,
                               x=at[own, 0], y=at[own, 1], marker=dict(color=HUES_OF_MANY[number % len(HUES_OF_MANY)], size=8)))  # fmt: skip
    return go.Figure(dict(data=traces, layout=_style(360) | layout | {"showlegend": True}))
