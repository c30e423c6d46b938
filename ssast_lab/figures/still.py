"""Pictures without a browser: a PNG of a record in some 50 ms, that of a confusion matrix, and the curves of a run as SVG. They
are what a notebook shows where nothing runs, and what changes while something does.

Axes: N patches, L labels.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from plotly.colors import hex_to_rgb, sequential

from ssast_lab.figures.charts import HUES, INK, RULE, smoothed
from ssast_lab.figures.relations import places, received
from ssast_lab.figures.sounds import HIDDEN, TITLES, Pictures, coloured, edge, loudness, shades, ticks_of
from ssast_lab.figures.theme import FONT, RIGHT, TEXT

if TYPE_CHECKING:
    from ssast_lab.analysis import Attention, Excerpt, Match, Reconstruction
    from ssast_lab.masking import Coverage
    from ssast_lab.patches import PatchGrid

ROW, HEADING, LEFT, BELOW, WIDE = 110, 20, 40, 22, 900  # pixels
SCALE = 2  # pixels of the file for one of the page
FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "arial.ttf",
    "Arial.ttf",
    "Helvetica.ttc",
)
CURVES = (("nce", "InfoNCE (nats)"), ("accuracy", "accuracy"), ("mse", "MSE"))


def still(record: Any, names: Sequence[str] = ("spectrogram", "masked", "reconstruction")) -> bytes:
    """A record as a PNG: the named pictures of a Reconstruction (as in :func:`ssast_lab.figures.overview`) in rows over one time
    axis, the log-mel of an Excerpt, what each patch receives of an Attention, the ranks of a Match, the rates of a Coverage.

    Raises a TypeError, which says what to do, for anything else.
    """
    kinds = [kind.__name__ for kind in type(record).__mro__]
    draw = next((_STILLS[kind] for kind in kinds if kind in _STILLS), None)
    if draw is None:
        raise TypeError(
            f"There is no picture without a browser of a {kinds[0]}, only of {', '.join(_STILLS)}: "
            "ssast_lab.figures draws others, and figures.picture(figure, 'png') makes a PNG of such a figure, for which "
            "pip install 'ssast-lab[pictures]' and Chromium are needed."
        )
    return draw(record, names) if draw is _reconstruction else draw(record)


def _reconstruction(record: Reconstruction, names: Sequence[str]) -> bytes:
    pictures = Pictures(record)
    titles = [TITLES[name].partition("</b>")[0].removeprefix("<b>").format(grid="Patch grid") for name in names]
    return _rows([(title, pictures.image(name)) for title, name in zip(titles, names)], record.grid, record.start)


def _excerpt(record: Excerpt) -> bytes:
    return _rows([("Spectrogram", loudness(np.asarray(record.fbank)))], record.grid, record.start)


def _attention(record: Attention) -> bytes:
    named = {f"Attention received, {name}": values for name, values in received(record).items()}
    return _maps(named, record.grid, record.start, "{:.2f} %")


def _match(record: Match) -> bytes:
    return _maps(places(record), record.grid, 0.0, "{:.0f}")


def _coverage(record: Coverage) -> bytes:
    title = f"Share of {record.masks:,} masks that hide a patch"
    return _maps({title: 100 * record.rate.ravel()}, None, 0.0, "{:.1f} %", record.rate.shape)


_STILLS: dict[str, Callable[..., bytes]] = {
    # by name, as the types themselves would bring torch along
    "Reconstruction": _reconstruction,
    "Excerpt": _excerpt,
    "Attention": _attention,
    "Match": _match,
    "Coverage": _coverage,
}


def _maps(
    named: Mapping[str, np.ndarray],
    grid: PatchGrid | None,
    start: float,
    form: str,
    shape: tuple[int, ...] | None = None,
) -> bytes:
    """A row for each name: (N,) values of patches on one scale, which is told; grey where there is none."""
    values = np.stack(list(named.values())).astype(float)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    scale = f"   dark: {form.format(low)}, bright: {form.format(high)}"
    shape = shape or (grid.rows, grid.columns)  # type: ignore[union-attr]
    rows = []
    for name, one in zip(named, values):
        index = np.where(np.isfinite(one), shades((np.nan_to_num(one) - low) / max(high - low, 1e-12)), 255)
        rows.append((name + scale, coloured(index.reshape(shape).T, sequential.Viridis, HIDDEN)))
    return _rows(rows, grid, start)


def _rows(rows: Sequence[tuple[str, Image.Image]], grid: PatchGrid | None, start: float) -> bytes:
    """Pictures, each under its title, over one time axis in seconds where the grid is known."""
    whole = Image.new("RGBA", (SCALE * WIDE, SCALE * (len(rows) * (ROW + HEADING) + BELOW)), (0, 0, 0, 0))
    pen, ink, font = ImageDraw.Draw(whole), hex_to_rgb(TEXT), ImageFont.load_default(11 * SCALE)
    size = SCALE * (WIDE - LEFT - 2), SCALE * ROW
    for place, (title, picture) in enumerate(rows):
        top = SCALE * (place * (ROW + HEADING) + HEADING)
        pen.text((SCALE * LEFT, top - SCALE * 4), title, ink, font, anchor="ls")
        whole.paste(picture.convert("RGBA").resize(size, Image.Resampling.NEAREST), (SCALE * LEFT, top))
        for hertz, label in ticks_of(grid, few=True).items() if grid else ():
            y = top + SCALE * ROW * (1 - (grid.mel_bin(hertz) + 0.5) / grid.mel_bins)  # type: ignore[union-attr]
            pen.text((SCALE * (LEFT - 4), y), label, ink, font, anchor="rm")
    if grid:
        begin, end = edge(grid, start, 0), edge(grid, start, grid.frames)
        step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60) if (end - begin) / step <= 11), 600)
        for count in range(int(np.ceil(begin / step)), int(end / step) + 1):
            x = SCALE * LEFT + size[0] * (count * step - begin) / (end - begin)
            pen.line((x, top + SCALE * ROW, x, top + SCALE * (ROW + 4)), ink, SCALE)
            pen.text((x, top + SCALE * (ROW + 6)), f"{count * step:g} s", ink, font, anchor="mt" if count else "lt")
    file = io.BytesIO()
    whole.quantize(255, Image.Quantize.FASTOCTREE).save(file, "PNG", compress_level=6)
    return file.getvalue()


def _written(names: Sequence[str], size: int) -> tuple[list[str], ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Names as they can be drawn, and a font that has their letters: Pillow's own has ASCII only. Where no other is installed,
    letters lose their marks, and those that cannot be written become question marks."""
    if not all(name.isascii() for name in names):
        for font in FONTS:
            try:
                return list(names), ImageFont.truetype(font, size)
            except OSError:
                continue
    plain = [
        "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
        for name in names
    ]
    return [name.encode("ascii", "replace").decode() for name in plain], ImageFont.load_default(size)


def confusion(labels: Sequence[str], matrix: np.ndarray) -> bytes:
    """A PNG of (L, L) numbers of clips: the row is the true label, the column what it was called. A cell is as dark as its share of
    the row; where there is room its number is written into it."""
    cell = SCALE * max(8, min(44, 900 // len(labels)))
    most = 40 if cell > 12 * SCALE else 24
    names = [label if len(label) <= most else label[: most - 3] + "..." for label in labels]
    names, font = _written(names, min(12 * SCALE, max(cell - 4, 9)))
    wide = round(max(font.getlength(name) for name in names)) + 8 * SCALE
    left, top = wide + 20 * SCALE, wide + 20 * SCALE
    size = cell * len(labels)
    whole = Image.new("RGB", (left + size + 8 * SCALE, top + size + 8 * SCALE), "white")
    pen = ImageDraw.Draw(whole)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    ramp = np.array([hex_to_rgb("#ffffff"), hex_to_rgb(HUES[0])], float)
    for row, name in enumerate(names):
        y = top + row * cell
        pen.text((left - 4 * SCALE, y + cell / 2), name, INK, font, anchor="rm")
        slanted = Image.new("L", (wide, cell), 0)
        ImageDraw.Draw(slanted).text((4 * SCALE, cell / 2), name, 255, font, anchor="lm")
        whole.paste(INK, (left + row * cell, top - wide), slanted.rotate(90, expand=True))
        for column, share in enumerate(shares[row]):
            x = left + column * cell
            colour = tuple(np.rint(ramp[0] + share * (ramp[1] - ramp[0])).astype(int).tolist())
            pen.rectangle((x, y, x + cell - 1, y + cell - 1), colour, RULE)
            number = f"{matrix[row, column]}"
            if matrix[row, column] and font.getlength(number) < cell - 2:
                pen.text((x + cell / 2, y + cell / 2), number, "white" if share > 0.5 else INK, font, anchor="mm")
    title = ImageFont.load_default(11 * SCALE)
    pen.text((left, 4 * SCALE), "called", TEXT, title, anchor="lt")
    pen.text((4 * SCALE, top - 4 * SCALE), "true label", TEXT, title, anchor="ls")
    file = io.BytesIO()
    whole.quantize(255).save(file, "PNG")
    return file.getvalue()


def curves_svg(
    trained: Mapping[str, Sequence[float]],
    held_out: Mapping[str, Sequence[float]],
    chance: float | None = None,
    reference: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """InfoNCE, accuracy and MSE over the steps, side by side: "step", "nce", "accuracy" and "mse" of the training steps and of
    the evaluations, the accuracy of guessing, and the evaluations of another run, in grey, to compare with."""
    wide, high, gap = 270, 150, 52
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * (wide + gap)} {high + 52}" role="img" '
             f'aria-label="Curves of training" style="max-width: 980px; font: 11px {FONT.replace(chr(39), "")}" fill="{TEXT}">']  # fmt: skip
    for place, (name, title) in enumerate(CURVES):
        drawn = [(smoothed(np.asarray(trained[name], float)), trained["step"], sequential.Magma[4], 1.5, "")]
        if reference:
            drawn.insert(0, (np.asarray(reference[name], float), reference["step"], TEXT, 1.5, "5 3"))
        if name == "accuracy" and chance is not None and trained["step"]:
            drawn.append((np.full(2, chance), (trained["step"][0], trained["step"][-1]), TEXT, 1, "2 3"))
        drawn.append((np.asarray(held_out[name], float), held_out["step"], RIGHT, 2, ""))
        known = np.concatenate([values for values, *_ in drawn])
        known = known[np.isfinite(known)]
        low, most = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        low, most = (0.0 if name == "accuracy" else low), max(most, low + 1e-9)
        last = max([1.0, *(float(steps[-1]) for _, steps, *_ in drawn if len(steps))])
        left = place * (wide + gap) + gap - 6
        parts.append(f'<text x="{left}" y="12" font-weight="600">{title}</text>')
        parts.append(
            f'<path d="M{left} 22V{22 + high}H{left + wide}" stroke="{TEXT}" stroke-opacity="0.5" fill="none"/>'
        )
        for share in (0, 0.5, 1):
            value, y = low + share * (most - low), 22 + high * (1 - share)
            label = f"{value:.1%}" if name == "accuracy" else f"{value:.3g}"
            parts.append(f'<text x="{left - 5}" y="{y + 4:.0f}" text-anchor="end">{label}</text>')
            parts.append(
                f'<text x="{left + share * wide:.0f}" y="{high + 38}" text-anchor="middle">{share * last:.0f}</text>'
            )
        for values, steps, colour, width, dash in drawn:
            shown: Any = np.unique(np.linspace(0, len(values) - 1, 200).round().astype(int)) if len(values) else []
            points = " ".join(f"{left + wide * steps[i] / last:.1f},{22 + high * (most - values[i]) / (most - low):.1f}"
                              for i in shown if np.isfinite(values[i]))  # fmt: skip
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"/>'
            )
            if colour == RIGHT:
                parts += [
                    '<circle cx="{}" cy="{}" r="2.5" fill="{}"/>'.format(*point.split(","), colour)
                    for point in points.split()
                ]
    words = [(sequential.Magma[4], "training"), (RIGHT, "held out"), (TEXT, "dotted: guessing")] + ([(TEXT, "dashed: the reference run")] if reference else [])  # fmt: skip
    parts += [
        f'<text x="{gap - 6 + 130 * place}" y="{high + 50}" fill="{colour}">■ {word}</text>'
        for place, (colour, word) in enumerate(words)
    ]
    return "".join(parts) + "</svg>"
