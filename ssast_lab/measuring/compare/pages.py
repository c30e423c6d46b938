"""A comparison as files: a table for programs, a page for people, a figure for both."""

import csv
import io
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssast_lab import __version__, files
from ssast_lab.measuring.compare.lengths import by_length
from ssast_lab.measuring.compare.records import MARKS, PROBED, TUNED, CompareError, Comparison, Entry
from ssast_lab.metrics import Interval

Path_ = str | os.PathLike[str]


def write(comparison: Comparison, out: Path_) -> None:
    """``table.csv``, ``comparison.json``, the figure and ``README.md`` into a folder."""
    out = Path(out)
    rows = [told(entry) for entry in comparison.entries]
    write_text(out / "table.csv", table_of(rows))
    content = {"command": comparison.command, "settings": comparison.settings, "versions": versions(), "rows": rows}
    write_text(out / "comparison.json", json.dumps(_without_nan(content), indent=1) + "\n")
    pictures = [
        draw(
            pictured(comparison.of(method), f"{method.capitalize()}"),
            out / f"figure{'' if method == PROBED else '-tuned'}",
        )
        for method in (PROBED, TUNED)
        if any(entry.runs for entry in comparison.of(method))
    ]
    write_text(out / "README.md", _page(comparison, pictures))


def told(entry: Entry) -> dict[str, Any]:
    """An entry as one row of the table; what is not known is None or nan."""
    empty = Interval(math.nan, math.nan, math.nan, 0)
    figure, difference = entry.figure or empty, entry.difference
    both = entry.averaged
    recall = both.decisions.macro_recall if both else None
    return {
        "upstream": entry.upstream,
        "task": entry.task,
        "method": entry.method,
        "measure": entry.measure if entry.runs else "",
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "seeds": len(entry.runs),
        "deviation": entry.deviation,
        "macro_recall": recall.value if recall else math.nan,
        "mean_average_precision": both.ranking.mean_average_precision.value if both else math.nan,
        "layer": " ".join(map(str, entry.layers)),
        "clips": entry.clips,
        "tested": len(entry.runs[0].targets) if entry.runs else 0,
        "seconds": round(entry.seconds, 1),
        "difference": difference.interval.value if difference else math.nan,
        "difference_low": difference.interval.low if difference else math.nan,
        "difference_high": difference.interval.high if difference else math.nan,
        "against_baseline": difference.verdict if difference else "",
        "failure": at_home(entry.failure),
    }


def at_home(text: str) -> str:
    """A text for others to read: whose machine it was is not their business."""
    return text.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same columns as CSV; nan is an empty cell."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(rows[0])
    for row in rows:
        table.writerow(
            f"{v:.5g}" if isinstance(v, float) and not math.isnan(v) else "" if v != v else v for v in row.values()
        )
    return text.getvalue()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def pictured(entries: Sequence[Entry], title: str) -> Any:
    """The figure of the entries that have figures, or None where plotly is not installed."""
    try:
        from ssast_lab import figures
    except ImportError:
        return None
    measured = [
        figures.Dot(
            entry.task if entry.measure == "accuracy" else f"{entry.task} (mAP)", entry.upstream,
            *entry.figure[:3], entry.singles if len(entry.runs) > 1 else (),
        )
        for entry in entries
        if entry.figure
    ]  # fmt: skip
    measures = sorted({entry.measure for entry in entries if entry.runs})
    return figures.dots(measured, title, f"{' or '.join(measures)} on the test clips, with its 95 % interval")


def draw(figure: Any, stem: Path) -> str:
    """Writes a figure beside the table, and says in a line of Markdown where it is: an SVG if kaleido and a browser are
    there to draw it, else a page that holds all it needs."""
    if figure is None:
        return "No figure was drawn: install plotly for it."
    from ssast_lab import figures

    try:
        image = figures.picture(figure, "svg")
    except Exception:  # kaleido is not installed, or its browser is missing or fails in one of many ways
        page = stem.with_suffix(".html")
        write_text(page, figure.to_html(include_plotlyjs=True, full_html=True))
        return f"The figure is a page of its own, [{page.name}]({page.name}): no browser was there to make a picture of it."
    picture = stem.with_suffix(".svg")
    write_text(picture, image.decode())
    return f"![{figure.layout.title.text}]({picture.name})"


def _page(comparison: Comparison, pictures: Sequence[str]) -> str:
    lines = ["# Comparison", "", "Made by", "", "```", comparison.command, "```", ""]
    lines += pictures
    for method in (PROBED, TUNED):
        entries = comparison.of(method)
        if entries:
            lines += ["", f"## {method.capitalize()}", "", *crossed(entries, comparison)]
            table = by_length(comparison.against.items(), entries, comparison.lengths)
            lines += ["", "By the length of the sound:", "", *table] if table else []
    failures: dict[str, dict[str, None]] = {}
    for entry in comparison.entries:
        if entry.failure:
            failures.setdefault(entry.failure, {})[entry.upstream] = None
    if failures:
        lines += ["", "## What could not be measured", ""]
        lines += [f"- {', '.join(names)}: {at_home(failure)}" for failure, names in failures.items()]
    told_ = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join([*lines, "", f"Versions: {told_}.", ""])


def crossed(entries: Sequence[Entry], comparison: Comparison) -> list[str]:
    """Lines of a Markdown table: an upstream in each row, a task in each column, the best figure of a task in bold."""
    tasks = list(dict.fromkeys(entry.task for entry in entries))
    measure = {entry.task: f" ({entry.measure})" for entry in entries if entry.runs}
    lines = [
        "| upstream | " + " | ".join(f"{task}{measure.get(task, '')}" for task in tasks) + " |",
        "| --- |" + " --- |" * len(tasks),
    ]
    for called in dict.fromkeys(entry.upstream for entry in entries):
        found = {entry.task: entry for entry in entries if entry.upstream == called}
        cells = [_cell(found[task], comparison.best(task, found[task].method)) for task in tasks]
        lines.append(f"| {called} | " + " | ".join(cells) + " |")
    seeds = max((len(entry.runs) for entry in entries), default=1)
    notes = ["Brackets are 95 % bootstrap intervals over the test clips or their sources."]
    if seeds > 1:
        notes.append(f"Figures with ± are means over {seeds} seeds and their standard deviation.")
    if against := comparison.against:
        others = set(against.values())
        whom = others.pop() if len(others) == 1 else ", ".join(f"{other} ({one})" for one, other in against.items())
        notes.append(
            f"▲ above and ▼ below {whom}: the interval of the paired difference excludes 0"
            + (", and no seed of the one reaches a seed of the other." if seeds > 1 else ".")
        )
    return [*lines, "", " ".join(notes)]


def _cell(entry: Entry, best: float) -> str:
    if entry.figure is None:
        return "–"
    value = f"{entry.figure.value:.3f}" + (f" ± {entry.deviation:.3f}" if len(entry.runs) > 1 else "")
    value = f"**{value}**" if entry.figure.value == best else value
    mark = MARKS.get(entry.difference.verdict if entry.difference else "", "")
    return f"{value} [{entry.figure.low:.3f}, {entry.figure.high:.3f}]{mark}"


def versions() -> dict[str, str]:
    """Of whatever decides the figures."""
    import scipy
    import sklearn

    return {
        "ssast-lab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
    }


def write_text(path: Path, text: str) -> None:
    try:
        files.write(path, text)
    except OSError as error:
        raise CompareError(f"{path} cannot be written: {error.strerror or error}.") from None
