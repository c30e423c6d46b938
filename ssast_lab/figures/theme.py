"""What all figures share: colours, lettering, and the way into an image file.

The colours are readable on light and on dark pages; backgrounds are transparent.
"""

import plotly.graph_objects as go

TEXT = "#7b8087"  # about the same contrast on white and on black
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
RIGHT, WRONG = "#12b886", "#e8590c"  # hidden patches that were recognised, and that were not


def axis_name(letter: str, number: int) -> str:
    """plotly's name of the ``number``-th axis, from 1."""
    return letter if number == 1 else f"{letter}{number}"


def picture(figure: go.Figure, kind: str) -> bytes:
    """A figure as an image file, "png" or "svg", drawn by kaleido and a browser: whatever they raise where they are missing."""
    import kaleido

    # MathJax would be fetched from the network, and nothing here is set in it
    options = {"format": kind, "width": figure.layout.width, "height": figure.layout.height}
    return kaleido.calc_fig_sync(figure.to_dict(), opts=options, kopts={"mathjax": False})
