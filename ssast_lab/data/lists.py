"""Lists of sounds: CSV and TSV tables, and the official JSON. Read as they were written, or refused by file and line."""

import codecs
import csv
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssast_lab.data.errors import DataError, Passed

COLUMNS = (
    "path",
    "wav",
    "file",
    "filename",
    "file_name",
    "audio",
)  # that name a sound; the first that is there is taken
TABLES = frozenset([".csv", ".tsv"])
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
LINE_END = re.compile(r"\r\n|\r|\n")
QUOTED = re.compile(r'"((?:[^"]|"")*)"')

COMMENT, TWICE = "commented out", "listed more than once"


class Row(NamedTuple):
    """One line of a table."""

    line: int  # of the file, from 1
    cells: dict[str, str]  # name of the column in lower case -> text without spaces around it


class Table(NamedTuple):
    path: Path
    columns: tuple[str, ...]  # in lower case
    rows: tuple[Row, ...]

    def column(self, names: Sequence[str]) -> str | None:
        """The first of these names that a column has."""
        return next((name for name in names if name in self.columns), None)

    def needed(self, names: Sequence[str]) -> str:
        """The same; :class:`DataError` where there is none."""
        column = self.column(names)
        if column is None:
            wanted = " or ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
            raise DataError(
                f"{self.path} has no column {wanted} in its first line, which holds: {', '.join(self.columns) or 'nothing'}."
            )
        return column


def read_table(path: str | os.PathLike[str], passed: Passed | None = None) -> Table:
    """A table whose first line names its columns, in whichever case.

    Its cells are parted by what parts the first line into the most: commas, semicolons, tabs or bars. They may stand in
    quotation marks, doubled within them; between tabs a mark that is not at both ends is a letter. Text is UTF-8, or UTF-16
    and UTF-32 with a byte-order mark. Blank lines, and those that begin with ``#``, are left out; the latter are counted in
    ``passed``.

    :class:`DataError`, with file and line, for a quotation that does not end on its line, a line with more or fewer cells
    than the first one, and a column that is there twice."""
    path = Path(path)
    columns: tuple[str, ...] = ()
    rows, delimiter = [], ","
    for number, line in enumerate(LINE_END.split(_text(path)), 1):
        if not line.strip():
            continue
        if line.startswith("#"):
            if passed is not None:
                passed.add(COMMENT, f"line {number} of {path}")
            continue
        if not columns:
            delimiter, columns = _head(line, path, number)
            continue
        cells = _cells(line, delimiter, path, number)
        while len(cells) > len(columns) and not cells[-1]:
            cells.pop()
        if not any(cells):
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"Line {number} of {path} has {len(cells)} cells, where its first line names {len(columns)} columns, parted by "
                f"{DELIMITERS[delimiter]}: put a text that holds one of these into quotation marks."
            )
        rows.append(Row(number, dict(zip(columns, cells))))
    return Table(path, columns, tuple(rows))


def _text(path: Path) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise DataError(f"{path} is no list of sounds: it is no regular file.")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"Line {line} of {path} is no {encoding.upper()}: save the list as UTF-8.") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"Line {line} of {path} is no text (it holds a zero byte): save the list as UTF-8.")
    return text


def _cells(line: str, delimiter: str, path: Path, number: int) -> list[str]:
    if delimiter == "\t":
        cells = [cell.strip() for cell in line.split("\t")]
        return [match[1].replace('""', '"') if (match := QUOTED.fullmatch(cell)) else cell for cell in cells]
    try:
        (cells,) = csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True)
    except csv.Error as error:
        closer = re.sub(rf'" +(?={re.escape(delimiter)}|$)', '"', line)  # a space after a quotation is no part of it
        if closer != line:
            return _cells(closer, delimiter, path, number)
        what = (
            "a quotation mark that is not closed on this line" if "end of data" in str(error) else f"a fault: {error}"
        )
        raise DataError(
            f"Line {number} of {path} has {what}: close it, double it within a quoted text, or take it out."
        ) from None
    return [cell.strip() for cell in cells]


def _head(line: str, path: Path, number: int) -> tuple[str, tuple[str, ...]]:
    """The delimiter and the columns: the most that there may be."""
    found: dict[str, list[str]] = {}
    fault = None
    for delimiter in sorted(DELIMITERS, key="\t".__ne__) if path.suffix.lower() == ".tsv" else DELIMITERS:
        try:
            found[delimiter] = _cells(line, delimiter, path, number)
        except DataError as error:  # a quotation that ends at another delimiter
            fault = fault or error
    if not found and fault:
        raise fault
    delimiter = max(found, key=lambda mark: len(found[mark]))
    columns = tuple(cell.lower() for cell in found[delimiter])
    for name in columns:
        if name and columns.count(name) > 1:
            raise DataError(f"Line {number} of {path} names the column {name} twice: give each a name of its own.")
    return delimiter, columns


def read_entries(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, entry) of the official JSON, ``{"data": [{"wav": path, ...}, ...]}``; :class:`DataError` for another."""
    path = Path(path)
    official = '{"data": [{"wav": ...}]}'
    try:
        entries = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        where = f"Line {error.lineno} of {path}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise DataError(f"{where} is no JSON: {getattr(error, 'msg', 'it is nested too deeply')}.") from None
    entries = entries.get("data") if isinstance(entries, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{path} is no official manifest, {official}: it has no list called data.")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("wav"), str) or not entry["wav"].strip():
            raise DataError(f"Entry {number} of {path} names no sound: an official manifest is {official}.")
        yield number, entry
