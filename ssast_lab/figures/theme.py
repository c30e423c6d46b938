"""What all figures share: colours, lettering, and the way into an image file.

The colours are readable on light and on dark pages; backgrounds are transparent.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

TEXT = "#7b8087"  # about the same contrast on white and on black
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
RIGHT, WRONG = "#12b886", "#e8590c"  # hidden patches that were recognised, and that were not


def axis_name(letter: str, number: int) -> str:
    """plotly's name of the ``number``-th axis, from 1."""
    return letter if number == 1 else f"{letter}{number}"


def palette(ramp: Sequence[str]) -> np.ndarray:
    """(255, 3) uint8: the colours from the first to the last of a ramp, evenly spaced."""
    stops = np.array([hex_to_rgb(colour) for colour in ramp], dtype=float)
    steps = np.linspace(0, len(stops) - 1, 255)
    colours = np.stack([np.interp(steps, np.arange(len(stops)), channel) for channel in stops.T], axis=1)
    return colours.round().astype(np.uint8)


def picture(figure: go.Figure, kind: str) -> bytes:
    """A figure as an image file, "png" or "svg", drawn by kaleido and a browser: whatever they raise where they are missing."""
    import kaleido

    # MathJax would be fetched from the network, and nothing here is set in it
    options = {"format": kind, "width": figure.layout.width, "height": figure.layout.height}
    return kaleido.calc_fig_sync(figure.to_dict(), opts=options, kopts={"mathjax": False})
