"""Readers of labelled sets: tables, the official JSON with its label file, and folders of classes."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ssast_lab import data
from ssast_lab.data.labelled.sets import LabelError, LabelledClip, LabelledSet, build

LABEL_COLUMNS = ("label", "labels", "category", "class")  # of a table; the first one that it has is taken
SOURCE_COLUMNS = ("source", "group", "speaker", "src_file")
FOLD_COLUMNS = ("fold", "split")
FOLDS = {  # other names of folds -> ours
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip

Path_ = str | os.PathLike[str]


def read_labelled(path: Path_, labels: Path_ | Sequence[str] | None = None) -> LabelledSet:
    """A labelled set from

    - a folder that holds ``task.csv``, or a CSV or TSV: columns ``path`` (or ``wav``, ``file``, ``filename``) and ``label``
      (or ``labels``, ``category``, ``class``; several joined by ";"), and if they are known ``source`` (or ``group``,
      ``speaker``) and ``fold`` (or ``split``); relative paths are relative to the table,
    - the official JSON (YuanGongND/ssast: ``{"data": [{"wav": path, "labels": "/m/a,/m/b"}]}``), with its label file,
    - a folder with one sub-folder for each class, or such folders under ``train/``, ``valid/`` and ``test/``.

    ``labels`` is the official label file (CSV ``index,mid,display_name``), or the names of the labels in order: a test set
    needs those of its training set. :class:`LabelError` for anything that cannot be used.
    """
    path = Path(path)
    known = _known(labels)
    if path.is_dir():
        manifest = path / "task.csv"
        entries, origin = (list(_table(manifest, known)), manifest) if manifest.is_file() else (_folder(path), path)
    elif not path.is_file():
        raise LabelError(f"There is no labelled set at {path}: no such file or folder.")
    elif path.suffix.lower() == ".json":
        if known is None:
            raise LabelError(
                f"{path} names its labels by codes and therefore needs the label file: "
                "a CSV with the columns index, mid and display_name."
            )
        entries, origin = list(_official(path, known)), path
    elif path.suffix.lower() in (".csv", ".tsv"):
        entries, origin = list(_table(path, known)), path
    else:
        raise LabelError(f"{path} is no labelled set: expected a folder, .csv, .tsv or .json.")
    return build(entries, known.names if known else None, origin=origin)


class _Known(NamedTuple):
    """The labels that may occur, and the codes and names that stand for them."""

    names: tuple[str, ...]  # (L,)
    name_of: dict[str, str]  # code or name -> name
    origin: str

    def find(self, text: str, separator: str, clip: data.Clip, origin: Path) -> tuple[str, ...]:
        """The labels in a text. A name may itself contain the separator ("Male speech, man speaking"), so that the longest
        name is looked for first."""
        words = text.split(separator)
        labels: list[str] = []
        while words:
            for end in range(len(words), 0, -1):
                name = self.name_of.get(separator.join(words[:end]).strip())
                if name is not None:
                    break
            else:
                raise LabelError(
                    f"The label {words[0].strip()!r} of the clip {clip.name} in {origin} is not in {self.origin}: "
                    "add it there, or correct it."
                )
            labels.append(name)
            words = words[end:]
        return tuple(dict.fromkeys(labels))


def _known(labels: Path_ | Sequence[str] | None) -> _Known | None:
    if labels is None:
        return None
    if isinstance(labels, str | os.PathLike):
        return read_label_file(labels)
    names = tuple(labels)
    return _Known(names, {name: name for name in names}, f"the {len(names)} labels that were given")


def read_label_file(path: Path_) -> _Known:
    """The official label file: CSV with the columns index, mid and display_name; labels in the order of the index."""
    path = Path(path)
    if not path.is_file():
        raise LabelError(
            f"There is no label file {path}: a CSV with the columns index, mid and display_name was expected."
        )
    rows = list(table_rows(path, ("index", "mid", "display_name")))
    try:
        rows.sort(key=lambda row: int(row["index"]))
        complete = [int(row["index"]) for row in rows] == list(range(len(rows)))
    except ValueError:
        complete = False
    if not complete:
        raise LabelError(
            f"The column index of the label file {path} must number its lines 0, 1, 2 and so on, each once."
        )
    names = tuple(row["display_name"] for row in rows)
    codes = [row["mid"] for row in rows]
    for words in (names, codes):
        if len(set(words)) != len(words):
            twice = next(word for word in words if words.count(word) > 1)
            raise LabelError(f"{twice!r} occurs twice in the label file {path}: give each label its own line.")
    name_of = dict(zip(names, names, strict=True)) | dict(zip(codes, names, strict=True))
    return _Known(names, name_of, f"the label file {path}")


def table_rows(path: Path, needed: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The rows of a CSV or TSV, with column names in lower case and texts stripped. :class:`LabelError` where a needed column
    is missing or the file is no table."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = data.rows_of(file, path)
            columns = [(name or "").strip().lower() for name in rows.fieldnames or ()]
            for name in needed:
                if name not in columns:
                    raise LabelError(
                        f"{path} has no column {name} in its first line, which holds: {', '.join(columns)}."
                    )
            rows.fieldnames = columns
            for row in rows:
                yield {name: (text or "").strip() for name, text in row.items() if isinstance(text, str | None)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path} is no table: {type(error).__name__}: {error}.") from None


def _table(path: Path, known: _Known | None) -> Iterator[LabelledClip]:
    names: list[str | None] | None = None
    for row in table_rows(path):
        if names is None:
            alternatives = (data.COLUMNS, LABEL_COLUMNS, SOURCE_COLUMNS, FOLD_COLUMNS)
            names = [next((name for name in those if name in row), None) for those in alternatives]
            for name, those in zip(names[:2], alternatives, strict=False):
                if name is None:
                    raise LabelError(
                        f"{path} has no column {', '.join(those[:-1])} or {those[-1]} in its first line, "
                        f"which holds: {', '.join(row)}."
                    )
        file, label, source, fold = (row.get(name, "") if name else "" for name in names)
        if not file:
            continue
        clip = data.Clip(os.path.join(path.parent, file))
        if known:
            labels = known.find(label, ";", clip, path) if label else ()
        else:
            labels = tuple(dict.fromkeys(word.strip() for word in label.split(";") if word.strip()))
        yield LabelledClip(clip, labels, source, _fold(fold, clip, path))


def _fold(text: str, clip: data.Clip, origin: Path) -> str:
    fold = str(int(text)) if text.isdecimal() else FOLDS.get(text.lower(), "") if text else ""
    if text and not fold:
        raise LabelError(
            f"The fold {text!r} of the clip {clip.name} in {origin} is not known: write train, valid, test or a number."
        )
    return fold


def _official(path: Path, known: _Known) -> Iterator[LabelledClip]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8-sig"))["data"]
        items = [
            (str(item["wav"]), [words] if isinstance(words := item["labels"], str) else list(map(str, words)))
            for item in listed
        ]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise LabelError(
            f'{path} is no official manifest ({{"data": [{{"wav": ..., "labels": ...}}]}}): {type(error).__name__}: {error}.'
        ) from None
    for file, labels in items:
        clip = data.Clip(os.path.join(path.parent, file))
        names = [name for text in labels if text.strip() for name in known.find(text, ",", clip, path)]
        yield LabelledClip(clip, tuple(dict.fromkeys(names)))


def _folder(path: Path) -> list[LabelledClip]:
    folders = [folder for folder in sub_folders(path) if any(sounds(folder))]  # not those that hold only notes
    if folders and all(folder.name.lower() in FOLDS for folder in folders):
        return [
            entry._replace(fold=FOLDS[folder.name.lower()]) for folder in folders for entry in class_folders(folder)
        ]
    return class_folders(path)


def sub_folders(path: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def class_folders(path: Path) -> list[LabelledClip]:
    """One class for each sub-folder that holds sounds, at any depth."""
    loose = next((file for file in sorted(path.iterdir()) if _is_sound(file)), None)
    if loose:
        raise LabelError(
            f"The sound {loose} lies in no class: put every sound into the folder of its class, or write a task.csv."
        )
    return [LabelledClip(clip, (folder.name,)) for folder in sub_folders(path) for clip in sounds(folder)]


def sounds(folder: Path) -> Iterator[data.Clip]:
    """The sound files in a folder, at any depth and in a fixed order, without hidden ones."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (data.Clip(os.path.join(parent, name)) for name in sorted(names) if _is_sound(Path(parent, name)))


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in data.EXTENSIONS and not path.name.startswith(".") and path.is_file()
