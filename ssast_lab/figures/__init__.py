"""Records as plotly figures: returned, never shown. Nothing here computes a model, so torch is not needed.

theme.py   colours and what all pictures share
charts.py  measurements
sounds.py  pictures of a sound
maps.py    attention, recognition and masks, patch by patch
"""

from ssast_lab.figures.charts import Dot, Line, curves, dots, lines, smoothed
from ssast_lab.figures.maps import attention, coverage, match
from ssast_lab.figures.sounds import (
    DEVIATION,
    HIDDEN,
    HOP_SECONDS,
    LOUDNESS,
    WINDOW_SECONDS,
    colour_range,
    error,
    gallery,
    masked,
    overview,
    patch_grid,
    reconstruction,
    spectrogram,
)
from ssast_lab.figures.theme import RIGHT, WRONG, palette, picture

__all__ = [
    "DEVIATION", "HIDDEN", "HOP_SECONDS", "LOUDNESS", "RIGHT", "WINDOW_SECONDS", "WRONG", "Dot", "Line", "attention", "colour_range",
    "coverage", "curves", "dots", "error", "gallery", "lines", "masked", "match", "overview", "palette", "patch_grid", "picture", "reconstruction", "smoothed",
    "spectrogram",
]  # fmt: skip
