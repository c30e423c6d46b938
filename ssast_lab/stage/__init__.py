"""The stage: what the page and the notebooks show of a sound and its reconstruction.

data.py   what its script is given, and gives back
still.py  what stands in its place where no script runs
"""

from ssast_lab.stage.data import (
    DECIBEL,
    PLURAL,
    SILENCE,
    analyse,
    hidden_values,
    inverted,
    levels,
    painted_mask,
    picture,
    sounds,
    stretch,
    text,
)
from ssast_lab.stage.still import bundle, picture_html, picture_of, player, summary

__all__ = [
    "DECIBEL", "PLURAL", "SILENCE", "analyse", "bundle", "hidden_values", "inverted", "levels", "painted_mask", "picture", "picture_html", "picture_of", "player", "sounds",
    "stretch", "summary", "text",
]  # fmt: skip
