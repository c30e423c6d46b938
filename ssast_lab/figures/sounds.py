"""What a model did to a sound, as pictures.

Axes: T frames, F mel bins, N patches. Pictures have time to the right, in seconds of the sound, and pitch upwards, on the
mel scale with ticks in Hz.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.colors import hex_to_rgb, sequential

from ssast_lab.figures.theme import FONT, RIGHT, TEXT, WRONG, axis_name, palette

if TYPE_CHECKING:
    from ssast_lab.analysis import Reconstruction
    from ssast_lab.patches import PatchGrid

TICKS = {
    100: "100",
    250: "250",
    500: "500",
    1000: "1k",
    2000: "2k",
    4000: "4k",
    8000: "8k",
    16_000: "16k",
    32_000: "32k",
}  # Hz
FEW = (250, 1000, 4000, 16_000)  # of them, where there is little room

LOUDNESS = tuple(sequential.Magma)
DEVIATION = ("#9bd7ff", "#3f8fe0", "#1d4478", "#16181d", "#74291f", "#df5f33", "#ffd592")  # too quiet, right, too loud
HIDDEN = "#8a9099"
ROWS, ALONE = (102, 25, 22, 38), (260, 0, 26, 42)  # pixels of a row, between rows, above and below them


def ticks_of(grid: PatchGrid, few: bool = False) -> dict[float, str]:
    """Hz -> label, of those in the grid's band, and where it ends if that is far above the last of them."""
    low, high = grid.band
    inside = {hertz: label for hertz, label in TICKS.items() if low <= hertz <= high}
    end = {high: f"{high / 1000:.3g}k"} if high > 1.4 * max(inside, default=low) and high >= 1000 else {}
    return {hertz: label for hertz, label in inside.items() if hertz in FEW or not few} | end


def spectrogram(record: Reconstruction) -> go.Figure:
    """What was heard: the log-mel spectrogram."""
    return _figure(record, ["spectrogram"])


def patch_grid(record: Reconstruction) -> go.Figure:
    """The grid of patches with the mask: which are hidden, and which of these the model recognised."""
    return _figure(record, ["patch_grid"])


def masked(record: Reconstruction) -> go.Figure:
    """What the model was given: the spectrogram without its hidden patches."""
    return _figure(record, ["masked"])


def reconstruction(record: Reconstruction) -> go.Figure:
    """The visible patches as they are, the hidden ones as the model drew them."""
    return _figure(record, ["reconstruction"])


def error(record: Reconstruction) -> go.Figure:
    """Reconstruction minus original in the hidden patches."""
    return _figure(record, ["error"])


def overview(record: Reconstruction) -> go.Figure:
    """All five pictures, one under another, which zoom together."""
    return _figure(record, ["spectrogram", "patch_grid", "masked", "reconstruction", "error"])


def gallery(records: Sequence[tuple[str, Reconstruction]]) -> go.Figure:
    """Several sounds, each under its name in a row of three pictures: the sound, what the model was given of it, and the
    model's reconstruction."""
    row, gap, top, left, between = 84, 26, 44, 46, 0.015
    inner = len(records) * (row + gap) - gap
    wide = (1 - 2 * between) / 3
    heading: dict[str, Any] = dict(xref="paper", yref="paper", yanchor="bottom", xanchor="left", showarrow=False)
    columns = (("spectrogram", "heard"), ("masked", "given to the model"), ("reconstruction", "drawn by the model"))
    ticks = dict(ticks="outside", ticklen=3, tickcolor=TEXT, tickfont=dict(size=9), showgrid=False, zeroline=False)
    layout: dict[str, Any] = {}
    images, notes = [], []
    for column, (_, title) in enumerate(columns):
        text = dict(text=f"<b>{title}</b>", x=column * (wide + between), y=1, yshift=20, font=dict(size=12))
        notes.append(heading | text)
    for line, (name, record) in enumerate(records):
        pictures, bins, few = Pictures(record), record.grid.mel_bins, ticks_of(record.grid, few=True)
        begin, end = edge(record.grid, record.start, 0), edge(record.grid, record.start, record.grid.frames)
        high = 1 - line * (row + gap) / inner
        caption = f"{name}: MSE {record.mse:.3f}, {record.accuracy:.1%} recognised"
        notes.append(heading | dict(text=caption, x=0, y=high, yshift=1, xshift=-2))
        for column, (picture, _) in enumerate(columns):
            number, low = line * len(columns) + column + 1, column * (wide + between)
            x, y = axis_name("x", number), axis_name("y", number)
            layout["xaxis" + x[1:]] = ticks | dict(
                domain=[low, low + wide], anchor=y, range=[begin, end], ticksuffix=" s",
                showticklabels=line == len(records) - 1,
            )  # fmt: skip
            layout["yaxis" + y[1:]] = ticks | dict(
                domain=[max(high - row / inner, 0), high], anchor=x, range=[-0.5, bins - 0.5],
                tickvals=[record.grid.mel_bin(hertz) for hertz in few],
                ticktext=[f"{label} Hz" if label.isdigit() else label for label in few.values()],
                showticklabels=column == 0,
            )  # fmt: skip
            images.append(dict(source=pictures.of(picture), xref=x, yref=y, x=begin, y=bins - 0.5, sizex=end - begin,
                               sizey=bins, sizing="stretch", layer="below"))  # fmt: skip
    style = dict(width=1000, height=inner + top + 36, margin=dict(l=left, r=8, t=top, b=36), images=images,
                 annotations=notes, font=dict(family=FONT, size=11, color=TEXT), paper_bgcolor="rgba(0,0,0,0)",
                 plot_bgcolor="rgba(128,134,145,0.10)")  # fmt: skip
    return go.Figure(dict(data=[], layout=layout | style))


TITLES = {
    "spectrogram": "<b>Spectrogram</b>  what was heard",
    "patch_grid": f'<b>{{grid}} and mask</b>  <span style="color:{RIGHT}">■</span> hidden and recognised   '
    f'<span style="color:{WRONG}">■</span> hidden and taken for another   grey: visible',
    "masked": "<b>Masked</b>  all that the model was given",
    "reconstruction": "<b>Reconstruction</b>  what was visible as it is, what was hidden as the model drew it",
    "error": "<b>Error</b>  reconstruction minus original, where it was hidden",
}


def _figure(record: Reconstruction, names: list[str]) -> go.Figure:
    """The named pictures in rows over one time axis."""
    grid, pictures, texts = record.grid, Pictures(record), _hover(record)
    begin, end = edge(grid, record.start, 0), edge(grid, record.start, grid.frames)
    hertzes = ticks_of(grid)
    row, gap, top, bottom = ROWS if len(names) > 1 else ALONE
    inner = len(names) * row + (len(names) - 1) * gap
    heading: dict[str, Any] = dict(xref="paper", yref="paper", yanchor="bottom", showarrow=False, yshift=1)
    traces: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    headings: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    for place, name in enumerate(names):
        high = 1 - place * (row + gap) / inner
        axis = axis_name("y", place + 1)
        axes["yaxis" + axis[1:]] = dict(
            domain=[max(high - row / inner, 0), high], anchor="x", range=[-0.5, grid.mel_bins + 0.1],
            tickvals=[grid.mel_bin(hertz) for hertz in hertzes], ticks="outside", ticklen=3, tickcolor=TEXT,
            ticktext=["" if row < 200 and hertz == 250 else label for hertz, label in hertzes.items()],  # no room there
            tickfont=dict(size=10), showgrid=False, zeroline=False, title=dict(text="Hz", standoff=2, font=dict(size=10)),
        ) | (dict(matches="y") if place else {})  # fmt: skip
        images.append(
            dict(source=pictures.of(name), xref="x", yref=axis, x=begin, y=grid.mel_bins - 0.5, sizex=end - begin,
                 sizey=grid.mel_bins, sizing="stretch", layer="below")
        )  # fmt: skip
        title = TITLES[name].format(grid="Patch grid" if grid.rows > 1 else "Frames")
        headings.append(heading | dict(text=title, x=0, y=high, xanchor="left", xshift=-2, font=dict(size=12)))
        traces.append(_cells(record, axis, texts, tinted=name == "patch_grid"))
        if name == "patch_grid":
            traces.append(_lines(record, axis))
    traces += _colour_bars(names, pictures, row, gap, inner)
    layout = dict(
        height=inner + top + bottom,
        margin=dict(l=46, r=64, t=top, b=bottom),
        font=dict(family=FONT, size=11, color=TEXT),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(128,134,145,0.10)",
        images=images,
        annotations=headings,
        xaxis=dict(
            range=[begin, end], minallowed=begin, maxallowed=end, title=dict(text="seconds", standoff=3),
            anchor=axis_name("y", len(names)), showgrid=False, zeroline=False, ticks="outside", ticklen=4, tickcolor=TEXT,
            showspikes=True, spikemode="across", spikesnap="cursor", spikethickness=1, spikedash="solid", spikecolor=TEXT,
        ),
        **axes,
        showlegend=False,
        dragmode="zoom",
        hovermode="closest",
        hoverlabel=dict(bgcolor="#22252b", bordercolor="#22252b", align="left", font=dict(color="#f1f3f5", size=12)),
        modebar=dict(remove=["lasso2d", "select2d", "autoScale2d"], color=TEXT, activecolor=RIGHT,
                     bgcolor="rgba(0,0,0,0)"),
        uirevision=f"{begin:.3f} {end:.3f}",  # a new mask or model keeps the zoom; another window or sound does not
    )  # fmt: skip
    return go.Figure(dict(data=traces, layout=layout))  # at once: adding part by part takes four times as long


class Pictures:
    """The five pictures of a record as PNGs, which share one scale of colours."""

    def __init__(self, record: Reconstruction) -> None:
        self.record = record
        self.low, self.high = colour_range(record.original)
        self.most = (self.high - self.low) / 2  # of the error; it depends on the sound alone, so that masks compare

    def of(self, name: str) -> str:
        """The data address of a PNG."""
        return _png(self.image(name))

    def image(self, name: str) -> Image.Image:
        record = self.record
        original, hidden = record.original, _hidden(record)
        if name == "error":
            scaled = (record.error + self.most) / (2 * self.most)
            return coloured(np.where(hidden, shades(scaled), 255), DEVIATION, None)
        if name == "patch_grid":
            return coloured(shades((original - self.low) / (self.high - self.low)), ("#26292e", "#d0d4d9"), HIDDEN)
        values = record.reconstruction if name == "reconstruction" else original
        index = shades((values - self.low) / (self.high - self.low))
        return coloured(np.where(hidden, 255, index) if name == "masked" else index, LOUDNESS, HIDDEN)


def colour_range(original: np.ndarray) -> tuple[float, float]:
    """The values of a sound that have the first and the last colour: nearly its least and its greatest."""
    low, high = np.percentile(original, (0.5, 99.9))
    return float(low), float(max(high, low + 1e-3))


def shades(scaled: np.ndarray) -> np.ndarray:
    """0..1 -> the first 255 colours of a palette; the last one is kept for what has no value."""
    return (np.clip(scaled, 0, 1) * 254 + 0.5).astype(np.uint8)


def loudness(log_mel: np.ndarray) -> Image.Image:
    """(T, F) -> the picture, in its own range of colours."""
    low, high = colour_range(log_mel)
    return coloured(shades((log_mel - low) / (high - low)), LOUDNESS, HIDDEN)


def coloured(index: np.ndarray, ramp: Sequence[str], extra: str | None) -> Image.Image:
    """(T, F) palette indices -> the picture. Colour 255 is ``extra``, or a translucent grey for None."""
    wide = index.astype(np.uint8).repeat(max(1024 // len(index), 1), axis=0)  # else browsers blur a few frames into one
    image = Image.fromarray(np.ascontiguousarray(wide.T[::-1]))
    last = hex_to_rgb(extra or TEXT)
    image.putpalette(np.vstack([palette(ramp), [last]]).astype(np.uint8).tobytes())
    image.info |= {} if extra else {"transparency": b"\xff" * 255 + b"\x50"}
    return image


def _png(image: Image.Image) -> str:
    """A data address."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _cells(record: Reconstruction, axis: str, texts: np.ndarray, tinted: bool) -> dict:
    """An invisible cell over each patch, with the text shown on hover; ``tinted`` colours the hidden ones."""
    grid = record.grid
    state = np.where(record.mask, np.where(record.rank == 0, 1, 2), 0).reshape(grid.rows, grid.columns)
    clear = "rgba(0,0,0,0)"
    colours = (clear, RIGHT, WRONG) if tinted else (clear, clear, clear)
    return dict(
        type="heatmap", z=state.astype(np.uint8), zmin=0, zmax=2, showscale=False, opacity=0.82, yaxis=axis,
        text=texts, hovertemplate="%{text}<extra></extra>",
        x0=edge(record.grid, record.start, 0) + grid.shape[1] * grid.hop / 2, dx=grid.stride[1] * grid.hop,
        y0=grid.shape[0] / 2 - 0.5, dy=grid.stride[0],
        colorscale=[(at, colour) for colour, ends in zip(colours, ((0, 0.25), (0.25, 0.75), (0.75, 1))) for at in ends],
    )  # fmt: skip


def _lines(record: Reconstruction, axis: str) -> dict:
    """The lines between the patches; between the narrow patches of a frame model they would only make a grey blur."""
    grid = record.grid
    begin, end = edge(grid, record.start, 0), edge(grid, record.start, grid.frames)
    rows = [row * grid.stride[0] - 0.5 for row in range(1, grid.rows)]
    numbers = range(1, grid.columns + 1) if grid.rows > 1 else ()
    columns = [begin + number * grid.stride[1] * grid.hop for number in numbers]
    ends = [((begin, end), (at, at)) for at in rows]
    ends += [((at, at), (-0.5, grid.mel_bins - 0.5)) for at in columns if at < end]
    return dict(
        type="scatter", mode="lines", hoverinfo="skip", yaxis=axis, line=dict(color="rgba(16,18,22,0.55)", width=0.8),
        x=[at for xs, _ in ends for at in (*xs, None)], y=[at for _, ys in ends for at in (*ys, None)],
    )  # fmt: skip


def _colour_bars(names: list[str], pictures: Pictures, row: int, gap: int, inner: int) -> list[dict]:
    """A bar for the pictures of loudness and one for the error, each beside the first of its rows."""
    bars = []
    for name, ramp, low, high, title in (
        (next((name for name in names if name not in ("patch_grid", "error")), None), LOUDNESS, pictures.low,
         pictures.high, "log-mel"),
        ("error" if "error" in names else None, DEVIATION, -pictures.most, pictures.most, "error"),
    ):  # fmt: skip
        if name:
            bar = dict(
                title=dict(text=title, side="top", font=dict(size=10)), thickness=9, lenmode="pixels", len=row + 8,
                x=1.012, xanchor="left", y=1 - names.index(name) * (row + gap) / inner, yanchor="top", ypad=0,
                outlinewidth=0, tickfont=dict(size=10), nticks=5,
            )  # fmt: skip
            marker = dict(color=[0], cmin=low, cmax=high, colorscale=list(ramp), showscale=True, colorbar=bar)
            bars.append(dict(type="scatter", mode="markers", hoverinfo="skip", x=[None], y=[None], marker=marker))
    return bars


def _hover(record: Reconstruction) -> np.ndarray:
    """(rows, columns) texts shown on hover: the patch's number, place and band, and what the model made of it."""
    grid, kind = record.grid, "Patch" if record.grid.rows > 1 else "Frame"
    bands = [grid.hertz(row * grid.columns) for row in range(grid.rows)]
    words = []
    for patch in range(grid.count):
        low, high = bands[patch // grid.columns]
        begin, end = (record.start + seconds for seconds in grid.seconds(patch))
        text = f"<b>{kind} {patch}</b>  {begin:.2f}–{end:.2f} s, {low:.0f}–{high:.0f} Hz<br>"
        if record.mask[patch]:
            place = int(record.rank[patch])
            text += "hidden, recognised" if place == 0 else (
                f"hidden, not recognised: {place} of {record.hidden - 1} others looked likelier")  # fmt: skip
            text += f"<br>MSE {record.patch_mse[patch]:.3f}"
        else:
            text += "visible"
        words.append(text)
    return np.array(words, dtype=object).reshape(grid.rows, grid.columns)


def _hidden(record: Reconstruction) -> np.ndarray:
    """(T, F) bool: True where a value is hidden."""
    grid = record.grid
    cells = record.mask.reshape(grid.rows, grid.columns).repeat(grid.shape[0], 0).repeat(grid.shape[1], 1)
    return cells.T


def edge(grid: PatchGrid, start: float, frame: float) -> float:
    """Seconds at the left edge of a frame's column, of a window from ``start`` on; the frame's 25 ms are centred on the column."""
    return start + frame * grid.hop + (grid.window - grid.hop) / 2
