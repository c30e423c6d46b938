"""Records as plotly figures: returned, never shown. Nothing here computes a model, so torch is not needed.

    theme.py   colours and what all pictures share
    charts.py  measurements
    sounds.py  pictures of a sound

Pictures of a sound are in ``sounds.py``, measurements in ``charts.py``.
"""

from ssast_lab.figures.charts import Dot, Line, curves, dots, lines
from ssast_lab.figures.sounds import (
    DEVIATION,
    HIDDEN,
    HIGHEST,
    HOP,
    LOUDNESS,
    LOWEST,
    WINDOW,
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
    "DEVIATION", "HIDDEN", "HIGHEST", "HOP", "LOUDNESS", "LOWEST", "RIGHT", "WINDOW", "WRONG", "Dot", "Line", "colour_range",
    "curves", "dots", "error", "gallery", "lines", "masked", "overview", "palette", "patch_grid", "picture", "reconstruction",
    "spectrogram",
]  # fmt: skip
