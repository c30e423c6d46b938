"""Measurements: curves of a training run, and dots and lines with their intervals.

Dots and lines are for pages that are read and printed: dark on white."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb, sequential

from ssast_lab.figures.theme import FONT, RIGHT, TEXT, axis_name

if TYPE_CHECKING:
    from ssast_lab.learning.pretrain import Evaluation
    from ssast_lab.learning.task import StepResult

INK, RULE, BAND = "#1b1e23", "#d9dde3", "#f5f6f8"
HUES = ("#0b62c4", "#d1480d", "#0a8754", "#8a2fb8", "#b8860b", "#c2185b", "#00838f", "#5d4037", "#607d8b", "#7cb518")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross")
MEASURES = {"nce": "InfoNCE (nats)", "accuracy": "accuracy", "mse": "MSE"}
STEP, SPACE = 17, 16  # pixels between the names of a row, and around them


def curves(steps: Sequence[StepResult[Evaluation]]) -> go.Figure:
    """How a pretraining run learns: InfoNCE, accuracy and MSE of every step, and of the held-out clips."""
    evaluations = [(step.step, step.evaluation) for step in steps if step.evaluation]
    training = {name: smoothed(np.array([getattr(step, name) for step in steps], dtype=float)) for name in MEASURES}
    held_out = {name: [getattr(one, name) for _, one in evaluations] for name in MEASURES}
    chance = 1 / evaluations[0][1].masked if evaluations else None
    return _learning([step.step for step in steps], training, [at for at, _ in evaluations], held_out, chance, "step")


def learned(about: Mapping[str, Any]) -> go.Figure:
    """The same of a finished model, against the clips that it had heard: ``about`` is what its ``config.json`` says of it."""
    batch, training, evaluations = about["recipe"]["training"]["batch"], about["learned"], about["curves"]
    figure = _learning(
        [one["clips"] for one in training],
        {name: [one[name] for one in training] for name in MEASURES},
        [one["step"] * batch for one in evaluations],
        {name: [one[name] for one in evaluations] for name in MEASURES},
        1 / evaluations[0]["masked"] if evaluations else None,
        "clips heard",
    )
    figure.update_xaxes(type="log", exponentformat="SI", dtick=1)
    return figure.update_layout(paper_bgcolor="white", plot_bgcolor="white", font_color=INK, width=1100)


def _learning(
    at: Sequence[float],
    training: Mapping[str, Sequence[float] | np.ndarray],
    evaluated_at: Sequence[float],
    held_out: Mapping[str, Sequence[float]],
    chance: float | None,
    what: str,
) -> go.Figure:
    """A panel for each measure, of training and of the held-out clips."""
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    for place, (name, title) in enumerate(MEASURES.items(), 1):
        axes: dict[str, Any] = dict(xaxis=axis_name("x", place), yaxis=axis_name("y", place), showlegend=place == 1)
        traces.append(axes | dict(type="scatter", mode="lines", name="training", x=at, y=training[name],
                                  line=dict(color=sequential.Magma[4], width=1.5)))  # fmt: skip
        traces.append(axes | dict(type="scatter", mode="lines+markers", name="held out", x=evaluated_at,
                                  y=held_out[name], line=dict(color=RIGHT, width=2)))  # fmt: skip
        if name == "accuracy" and chance is not None:
            traces.append(axes | dict(type="scatter", mode="lines", name="guessing", x=[at[0], at[-1]],
                                      y=[chance] * 2, line=dict(color=TEXT, dash="dot", width=1),
                                      showlegend=True))  # fmt: skip
        low = (place - 1) * 0.36
        layout["xaxis" + axes["xaxis"][1:]] = dict(domain=[low, low + 0.28], anchor=axes["yaxis"], title=dict(text=what),
                                                   gridcolor="rgba(128,134,145,0.2)")  # fmt: skip
        layout["yaxis" + axes["yaxis"][1:]] = dict(anchor=axes["xaxis"], title=dict(text=title), zeroline=False,
                                                   gridcolor="rgba(128,134,145,0.2)",
                                                   tickformat=".1%" if name == "accuracy" else None)  # fmt: skip
    style = dict(height=300, margin=dict(l=60, r=20, t=30, b=45), paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
                 font=dict(family=FONT, size=11, color=TEXT), legend=dict(orientation="h", y=1.15))  # fmt: skip
    return go.Figure(dict(data=traces, layout=layout | style))


def smoothed(values: np.ndarray, parts: int = 50) -> np.ndarray:
    """Running means: each over the last values, one of so many parts of them all, so that a noisy curve can be read."""
    width = max(len(values) // parts, 1)
    sums = np.concatenate(([0.0], values.cumsum()))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - width, 0)
    return (sums[ends] - sums[begins]) / (ends - begins)


class Dot(NamedTuple):
    """A measurement with its interval."""

    row: str  # the row that it stands in: a task
    name: str  # what was measured on it: a model
    value: float
    low: float
    high: float
    singles: tuple[float, ...] = ()  # the values of single trainings, whose mean is ``value``


def dots(measured: Sequence[Dot], title: str, measure: str) -> go.Figure:
    """A row for each task; in it a dot with its interval for each name. Rows and names keep the order of ``measured``."""
    rows, names = (list(dict.fromkeys(getattr(dot, field) for dot in measured)) for field in ("row", "name"))
    inner = len(rows) * (len(names) * STEP + SPACE)
    places = {row: place for place, row in enumerate(reversed(rows))}
    apart = 1 / (len(names) + SPACE / STEP)
    traces: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        named = [dot for dot in measured if dot.name == name]
        at = [places[dot.row] + ((len(names) - 1) / 2 - number) * apart for dot in named]
        colour, symbol = HUES[number % len(HUES)], SYMBOLS[number // 2 % len(SYMBOLS)]
        singles = [(value, y) for dot, y in zip(named, at, strict=True) for value in dot.singles]
        traces.append(dict(
            type="scatter", mode="markers", showlegend=False, hoverinfo="skip", x=[x for x, _ in singles],
            y=[y for _, y in singles], marker=dict(color=colour, symbol="line-ns-open", size=9, line=dict(width=1)),
        ))  # fmt: skip
        traces.append(dict(
            type="scatter", mode="markers", name=name, x=[dot.value for dot in named], y=at,
            error_x=dict(type="data", symmetric=False, array=[dot.high - dot.value for dot in named],
                         arrayminus=[dot.value - dot.low for dot in named], thickness=2, width=0, color=colour),
            marker=dict(color=colour, symbol=symbol, size=9, line=dict(color="white", width=1)),
            customdata=[(dot.row, dot.low, dot.high) for dot in named],
            hovertemplate="%{customdata[0]}: %{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]",
        ))  # fmt: skip
    bands = [dict(type="rect", xref="paper", x0=0, x1=1, y0=at - 0.5, y1=at + 0.5, fillcolor=BAND, line_width=0, layer="below")
             for at in range(0, len(rows), 2)]  # fmt: skip
    layout = dict(
        height=max(inner, 22 * len(names)) + 120, shapes=bands, xaxis=_ruled(measure),
        yaxis=dict(tickvals=list(places.values()), ticktext=list(places), range=[-0.5, len(rows) - 0.5], showgrid=False,
                   zeroline=False, fixedrange=True, automargin=True),
    )  # fmt: skip
    return go.Figure(dict(data=traces, layout=layout | _printed(title)))


class Line(NamedTuple):
    """A measurement as a function of something; all sequences are (n,)."""

    panel: str  # the panel that it stands in: a task
    name: str
    at: Sequence[float]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    chance: float  # what guessing reaches


PANELS, PANEL, BETWEEN = 3, 190, 80  # in a row; pixels of a panel's height and from one to the next below it


def lines(measured: Sequence[Line], title: str, what: str, measure: str) -> go.Figure:
    """A panel for each task, three in a row; in it a line for each name, within the band of its intervals."""
    panels, names = (list(dict.fromkeys(getattr(line, field) for line in measured)) for field in ("panel", "name"))
    rows, columns = -(-len(panels) // PANELS), min(PANELS, len(panels))
    inner, wide = rows * PANEL + (rows - 1) * BETWEEN, (1 - 0.07 * (columns - 1)) / columns
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"height": inner + 150, "annotations": []}
    for place, panel in enumerate(panels):
        row, column = divmod(place, PANELS)
        left, high = column * (wide + 0.07), 1 - row * (PANEL + BETWEEN) / inner
        axes = dict(xaxis=axis_name("x", place + 1), yaxis=axis_name("y", place + 1))
        within = [line for line in measured if line.panel == panel]
        below = place + PANELS >= len(panels)
        layout["xaxis" + axes["xaxis"][1:]] = _ruled(what if below else "") | dict(
            domain=[left, min(left + wide, 1)], anchor=axes["yaxis"])  # fmt: skip
        layout["yaxis" + axes["yaxis"][1:]] = _ruled("" if column else measure) | dict(
            domain=[max(high - PANEL / inner, 0), high], anchor=axes["xaxis"], rangemode="tozero")  # fmt: skip
        layout["annotations"].append(dict(text=f"<b>{panel}</b>", x=left, y=high, xref="paper", yref="paper", xanchor="left",
                                          yanchor="bottom", showarrow=False))  # fmt: skip
        traces.append(axes | dict(type="scatter", mode="lines", name="guessing", showlegend=not place, hoverinfo="skip",
                                  x=[min(within[0].at), max(within[0].at)], y=[within[0].chance] * 2,
                                  line=dict(color=INK, dash="dot", width=1)))  # fmt: skip
        for line in within:
            number = names.index(line.name)
            colour = HUES[number % len(HUES)]
            veil = "rgba({},{},{},0.13)".format(*hex_to_rgb(colour))
            traces.append(axes | dict(type="scatter", mode="lines", showlegend=False, hoverinfo="skip",
                                      x=[*line.at, *reversed(line.at)], y=[*line.highs, *reversed(line.lows)],
                                      fill="toself", fillcolor=veil, line=dict(width=0)))  # fmt: skip
            traces.append(axes | dict(
                type="scatter", mode="lines+markers", name=line.name, x=list(line.at), y=list(line.values),
                line=dict(color=colour, width=2), hovertemplate="%{x}: %{y:.3f}", showlegend=panel == _first(measured, line.name),
                marker=dict(symbol=SYMBOLS[number % len(SYMBOLS)], size=7, line=dict(color="white", width=1)),
            ))  # fmt: skip
    return go.Figure(dict(data=traces, layout=_printed(title) | layout))


def _first(measured: Sequence[Line], name: str) -> str:
    return next(line.panel for line in measured if line.name == name)


def _ruled(title: str) -> dict[str, Any]:
    return dict(title=dict(text=title, standoff=8), gridcolor=RULE, zeroline=False, ticks="outside", tickcolor=RULE,
                automargin=True)  # fmt: skip


def _printed(title: str) -> dict[str, Any]:
    return dict(
        width=900, title=dict(text=title, x=0.01, xanchor="left", font=dict(size=16)), margin=dict(l=20, r=20, t=60, b=60),
        font=dict(family=FONT, size=13, color=INK), paper_bgcolor="white", plot_bgcolor="white",
        legend=dict(orientation="v", x=1.01, xanchor="left", y=1, yanchor="top"), hovermode="closest",
    )  # fmt: skip
