"""Records as plotly figures: returned, never shown. Nothing here computes a model, so torch is not needed.

theme.py   colours and what all pictures share
charts.py  measurements
sounds.py  pictures of a sound
"""

from ssast_lab.figures.charts import Dot, Line, curves, dots, lines
from ssast_lab.figures.sounds import (
    blank,
    error,
    gallery,
    masked,
    overview,
    patch_grid,
    reconstruction,
    spectrogram,
)
from ssast_lab.figures.theme import RIGHT, WRONG, picture

__all__ = [
    "RIGHT", "WRONG", "Dot", "Line", "blank", "curves", "dots", "error", "gallery", "lines", "masked", "overview",
    "patch_grid", "picture", "reconstruction", "spectrogram",
]  # fmt: skip
