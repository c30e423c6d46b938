"""A comparison as files: tables for programs, a page to read, a figure."""

import csv
import io
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssast_lab import __version__, data, files
from ssast_lab.measuring.compare.lengths import by_length
from ssast_lab.measuring.compare.records import MARKS, PROBED, TUNED, CompareError, Comparison, TaskResult
from ssast_lab.metrics import Interval
from ssast_lab.tables import listed, markdown_table

Path_ = str | os.PathLike[str]


def write(comparison: Comparison, out: Path_) -> None:
    """Writes ``table.csv``, ``comparison.json``, the figure and ``README.md`` into a folder. :class:`CompareError` where that
    is impossible."""
    out = Path(out)
    rows = [csv_row(result) for result in comparison.results]
    write_text(out / "table.csv", csv_table(rows))
    content = {
        "command": comparison.command, "upstreams": comparison.upstreams, "tasks": comparison.tasks, "settings": comparison.settings,
        "versions": versions(), "rows": rows,
    }  # fmt: skip
    write_text(out / "comparison.json", files.to_json(content, indent=1) + "\n")
    pictures = [
        draw(figure_of(comparison.of(method), method.capitalize()), out / name)
        for method, name in ((PROBED, "figure"), (TUNED, "figure-tuned"))
        if any(result.runs for result in comparison.of(method))
    ]
    write_text(out / "README.md", _page(comparison, pictures))


def csv_row(result: TaskResult) -> dict[str, Any]:
    """A result as one row of the table, column -> value; unknown values are None or nan."""
    unknown = Interval(math.nan, math.nan, math.nan, 0)
    figure, difference, mean = result.figure or unknown, result.difference, result.averaged
    interval = difference.interval if difference else unknown
    recall = mean.decisions.macro_recall if mean else None
    return {
        "upstream": result.upstream,
        "task": result.task,
        "method": result.method,
        "measure": result.measure if result.runs else "",
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "seeds": len(result.runs),
        "deviation": result.deviation,
        "macro_recall": recall.value if recall else math.nan,
        "mean_average_precision": mean.ranking.mean_average_precision.value if mean else math.nan,
        "layer": " ".join(map(str, result.layers)),
        "clips": result.clips,
        "tested": len(result.runs[0].targets) if result.runs else 0,
        "seconds": round(result.seconds, 1),
        "difference": interval.value,
        "difference_low": interval.low,
        "difference_high": interval.high,
        "against_baseline": difference.verdict if difference else "",
        "failure": without_home(result.failure),
    }


def without_home(text: str) -> str:
    """A text with the home folder written as ~, so that published pages do not name a user."""
    return text.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same columns as CSV; nan is an empty cell."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(rows[0])
    for row in rows:
        table.writerow(
            f"{v:.5g}" if isinstance(v, float) and not math.isnan(v) else "" if v != v else v for v in row.values()
        )
    return text.getvalue()


def figure_of(results: Sequence[TaskResult], title: str) -> Any:
    """A plotly figure of the results, or None where plotly is not installed."""
    try:
        from ssast_lab import figures
    except ImportError:
        return None
    measured = [
        figures.Dot(
            result.task if result.measure == "accuracy" else f"{result.task} (mAP)", result.upstream,
            *result.figure[:3], result.singles if len(result.runs) > 1 else (),
        )
        for result in results
        if result.figure
    ]  # fmt: skip
    measures = sorted({result.measure for result in results if result.runs})
    return figures.dots(measured, title, f"{' or '.join(measures)} on the test clips, with its 95 % interval")


def draw(figure: Any, stem: Path) -> str:
    """Writes a figure and returns the line of Markdown that shows it: an SVG where kaleido and a browser are installed, else
    a self-contained HTML page."""
    if figure is None:
        return "No figure was drawn: pip install 'ssast-lab[app]' for it."
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
    upstreams, tasks, methods = (
        list(dict.fromkeys(getattr(result, name) for result in comparison.results))
        for name in ("upstream", "task", "method")
    )
    lines = [
        "# Comparison",
        "",
        f"{listed(upstreams)} on {listed(tasks)}: {listed(methods)}.{_kinds(upstreams)}",
        "",
        *pictures,
    ]
    for method in (PROBED, TUNED):
        results = comparison.of(method)
        if results:
            lines += ["", f"## {method.capitalize()}", "", *cross_table(results, comparison)]
            table = by_length(comparison.against.items(), results, comparison.lengths)
            lines += ["", "By the length of the sound:", "", *table] if table else []
    failures: dict[str, dict[str, None]] = {}
    for result in comparison.results:
        if result.failure:
            failures.setdefault(result.failure, {})[result.upstream] = None
    if failures:
        lines += ["", "## What could not be measured", ""]
        lines += [f"- {', '.join(names)}: {without_home(failure)}" for failure, names in failures.items()]
    noticed = {name: what for result in comparison.results for name, what in result.noticed.items()}
    lines += ["", *map(without_home, data.summary(noticed))] if noticed else []
    lines += ["", "## How it was made", "", "```", comparison.command, "```"]
    return "\n".join([*lines, "", versions_line(), ""])


def _kinds(upstreams: Sequence[str]) -> str:
    """What names of upstreams mean that a stranger cannot guess."""
    said = {
        "scratch": "scratch: the model of that name with random weights.",
        "logmel": "logmel: no model, but plain statistics of the features.",
    }
    return "".join(f" {said[kind]}" for kind in said if any(re.match(rf"{kind}\b", name) for name in upstreams))


def cross_table(results: Sequence[TaskResult], comparison: Comparison) -> list[str]:
    """Lines of a Markdown table and its notes: an upstream in each row, a task in each column, the best figure of a task in
    bold."""
    tasks = list(dict.fromkeys(result.task for result in results))
    measure = {result.task: f" ({result.measure})" for result in results if result.runs}
    rows = []
    for name in dict.fromkeys(result.upstream for result in results):
        by_task = {result.task: result for result in results if result.upstream == name}
        rows.append([name, *(_cell(by_task[task], comparison.best(task, by_task[task].method)) for task in tasks)])
    lines = markdown_table(["upstream", *(f"{task}{measure.get(task, '')}" for task in tasks)], rows)
    seeds = max((len(result.runs) for result in results), default=1)
    notes = ["Brackets are 95 % bootstrap intervals over the test clips or their sources."]
    if seeds > 1:
        notes.append(f"Figures with ± are means over {seeds} seeds and their standard deviation.")
    if against := comparison.against:
        others = set(against.values())
        names = others.pop() if len(others) == 1 else ", ".join(f"{other} ({one})" for one, other in against.items())
        notes.append(
            f"▲ above and ▼ below {names}: the interval of the paired difference excludes 0"
            + (", and no seed of the one reaches a seed of the other." if seeds > 1 else ".")
        )
    return [*lines, "", " ".join(notes)]


def _cell(result: TaskResult, best: float) -> str:
    if result.figure is None:
        return "–"
    value = f"{result.figure.value:.3f}" + (f" ± {result.deviation:.3f}" if len(result.runs) > 1 else "")
    value = f"**{value}**" if result.figure.value == best else value
    mark = MARKS.get(result.difference.verdict if result.difference else "", "")
    return f"{value} [{result.figure.low:.3f}, {result.figure.high:.3f}]{mark}"


def versions_line() -> str:
    """:func:`versions` as a sentence."""
    return f"Versions: {', '.join(f'{name} {version}' for name, version in versions().items())}."


def versions() -> dict[str, str]:
    """Name -> version of the software that the figures depend on."""
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
    """Writes a file; :class:`CompareError` where that is impossible."""
    try:
        files.write(path, text)
    except OSError as error:
        raise CompareError(f"{path} cannot be written: {error.strerror or error}.") from None
