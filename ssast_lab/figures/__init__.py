"""Records as plotly figures: returned, never shown. Nothing here computes a model, so torch is not needed.

theme.py   colours and what all pictures share
charts.py  measurements
sounds.py  pictures of a sound
relations.py  attention, recognition and masks, patch by patch
grids.py   values of patches, on their grid and against each other
still.py   pictures without a browser
"""

from ssast_lab.figures.charts import Dot, Line, curves, dots, learned, lines, smoothed
from ssast_lab.figures.grids import maps, matrix, points, series, waveform
from ssast_lab.figures.relations import attention, coverage, match, places, received
from ssast_lab.figures.sounds import (
    DEVIATION,
    HIDDEN,
    LOUDNESS,
    colour_range,
    error,
    gallery,
    masked,
    overview,
    patch_grid,
    reconstruction,
    spectrogram,
)
from ssast_lab.figures.still import confusion, curves_svg, still
from ssast_lab.figures.theme import RIGHT, WRONG, palette, picture

__all__ = [
    "DEVIATION",
    "HIDDEN",
    "LOUDNESS",
    "RIGHT",
    "WRONG",
    "Dot",
    "Line",
    "attention",
    "colour_range",
    "confusion",
    "coverage",
    "curves",
    "curves_svg",
    "dots",
    "error",
    "gallery",
    "learned",
    "lines",
    "maps",
    "masked",
    "match",
    "matrix",
    "overview",
    "palette",
    "patch_grid",
    "picture",
    "places",
    "points",
    "received",
    "reconstruction",
    "series",
    "smoothed",
    "spectrogram",
    "still",
    "waveform",
]  # fmt: skip
