"""What a classifier reached, as files: one row a class, and the confusion matrix as table and picture."""

import csv
import io
import math
from pathlib import Path

from ssast_lab import files
from ssast_lab.metrics import Scores


def write(scores: Scores, folder: Path) -> list[str]:
    """Writes ``classes.csv``, and where every clip has one label ``confusion.csv`` and ``confusion.png``: their names. The picture is
    left out where plotly and Pillow are not installed."""
    rows: list[list] = [list(scores.classes[0]._fields)]
    rows += [
        ["" if isinstance(value, float) and math.isnan(value) else value for value in row] for row in scores.classes
    ]
    files.write(folder / "classes.csv", table(rows))
    if scores.confusion is None:
        return ["classes.csv"]
    matrix = [[label, *row] for label, row in zip(scores.labels, scores.confusion.tolist(), strict=True)]
    files.write(folder / "confusion.csv", table([["true label", *scores.labels], *matrix]))
    try:
        from ssast_lab import figures
    except ImportError:
        return ["classes.csv", "confusion.csv"]
    files.write(folder / "confusion.png", figures.confusion(scores.labels, scores.confusion))
    return ["classes.csv", "confusion.csv", "confusion.png"]


def table(rows: list[list]) -> str:
    """As CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
