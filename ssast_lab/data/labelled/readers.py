"""Readers of labelled sets: tables, the official JSON with its label file, folders of classes, and saved datasets."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssast_lab import data
from ssast_lab.data import arrow, clips, folders, lists
from ssast_lab.data.errors import Passed
from ssast_lab.data.labelled.names import Known, Path_, known_labels, parted
from ssast_lab.data.labelled.sets import LabelError, LabelledClip, LabelledSet, build

LABEL_COLUMNS = ("label", "labels", "category", "class")  # of a table; the first one that it has is taken
SOURCE_COLUMNS = ("source", "group", "speaker", "src_file")
FOLD_COLUMNS = ("fold", "split")
FOLDS = {  # other names of folds -> ours
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


def read_labelled(
    path: Path_, labels: Path_ | Sequence[str] | None = None, passed: Passed | None = None
) -> LabelledSet:
    """A labelled set from

    - a folder that holds ``task.csv``, or a CSV or TSV: columns ``path`` (or ``wav``, ``file``, ``filename``) and ``label``
      (or ``labels``, ``category``, ``class``; several joined by ";"), and if they are known ``source`` (or ``group``,
      ``speaker``) and ``fold`` (or ``split``); relative paths are relative to the table,
    - the official JSON (YuanGongND/ssast: ``{"data": [{"wav": path, "labels": "/m/a,/m/b"}]}``), with its label file,
    - a folder with one sub-folder for each class, or such folders under ``train/``, ``valid/`` and ``test/``,
    - what ``datasets`` of Hugging Face saved on disk, Parquet or Arrow files with a column of sounds and the columns of a
      table, or a folder of these, named after their folds or not.

    ``labels`` is the official label file (CSV ``index,mid,display_name``), or the names of the labels in order: a test set
    needs those of its training set. :class:`LabelError` for anything that cannot be used. What was passed over is counted in
    ``passed``, or said in one line where there is no such count.
    """
    path, counted = Path(path), Passed() if passed is None else passed
    known = known_labels(labels)
    try:
        entries, names, origin = _read(path, known, counted)
    except data.DataError as error:
        raise LabelError(str(error)) from None
    different = Counter(entries)
    if len(different) < len(entries):
        counted.add(lists.TWICE, different.most_common(1)[0][0].clip.name, count=len(entries) - len(different))
    if passed is None:
        counted.tell([path])
    return build(different, known.names if known else names, origin=origin)


def _read(path: Path, known: Known | None, passed: Passed) -> tuple[list[LabelledClip], tuple[str, ...] | None, Path]:
    """The clips, the names of all classes where the set tells them, and the file or folder to name in messages."""
    if path.is_dir():
        manifest = path / "task.csv"
        if manifest.is_file():
            return _table(manifest, known, passed), None, manifest
        files = list(folders.walk(path, passed))
        if not any(map(folders.is_sound, map(os.path.basename, files))):
            tables = [file for file in files if folders.suffix_of(file) in (".parquet", ".arrow")]
            if tables:
                return *_saved(path, tables, known, passed), path
        return _classes(path, files, known, passed), None, path
    if not path.is_file():
        raise LabelError(f"There is no labelled set at {path}: no such file or folder.")
    suffix = path.suffix.lower()
    if suffix == ".json":
        if known is None:
            raise LabelError(
                f"{path} names its labels by codes and therefore needs the label file: "
                "a CSV with the columns index, mid and display_name."
            )
        return list(_official(path, known)), None, path
    if suffix in lists.TABLES:
        return _table(path, known, passed), None, path
    if suffix in (".parquet", ".arrow"):
        return *_saved(path.parent, [str(path)], known, passed), path
    raise LabelError(f"{path} is no labelled set: expected a folder, .csv, .tsv, .json, .parquet or .arrow.")


def _table(path: Path, known: Known | None, passed: Passed) -> list[LabelledClip]:
    table = lists.read_table(path, passed)
    file, label = table.needed(lists.COLUMNS), table.needed(LABEL_COLUMNS)
    source, fold = table.column(SOURCE_COLUMNS) or "", table.column(FOLD_COLUMNS) or ""
    found = []
    for row in table.rows:
        if not row.cells[file]:
            raise LabelError(f"Line {row.line} of {path} names no sound.")
        clip = data.Clip(os.path.join(path.parent, row.cells[file]))
        found.append(
            (clip, [row.cells[label]], row.cells.get(source, ""), row.cells.get(fold, ""), f"Line {row.line} of {path}")
        )
    return _labelled(found, known)


def _labelled(
    found: Sequence[tuple[data.Clip, Sequence[str], str, str, str]], known: Known | None
) -> list[LabelledClip]:
    """Clips with texts of labels, source, fold, and where they stand, for messages."""
    if known:
        named = [
            [name for text in texts if text for name in known.find(text, clip, _within(place))]
            for clip, texts, *_, place in found
        ]
    else:
        texts = [(text, place) for _, texts, _, _, place in found for text in texts]
        each = iter(parted([text for text, _ in texts], [place for _, place in texts]))
        named = [[name for _ in texts for name in next(each)] for _, texts, *_ in found]
    entries = [
        LabelledClip(clip, tuple(dict.fromkeys(names)), source, _fold(fold, clip, place))
        for (clip, _, source, fold, place), names in zip(found, named, strict=True)
    ]
    first: dict[tuple[data.Clip, str], tuple[tuple[str, ...], str]] = {}
    for entry, (*_, place) in zip(entries, found, strict=True):
        if not entry.labels:
            raise LabelError(
                f"The clip {entry.clip.name} in {_within(place)} has no label: give it one, or leave it out."
            )
        labels, before = first.setdefault((entry.clip, entry.fold), (entry.labels, place))
        if labels != entry.labels:
            raise LabelError(
                f"The clip {entry.clip.name} has other labels in {_within(place)} than in {_within(before)}: write one line for "
                'it, with its labels joined by ";".'
            )
    return entries


def _within(place: str) -> str:
    """ "Line 3 of a.csv", within a sentence."""
    return place[0].lower() + place[1:]


def _fold(text: str, clip: data.Clip, place: str) -> str:
    fold = str(int(text)) if text.isdecimal() else FOLDS.get(text.lower(), "") if text else ""
    if text and not fold:
        raise LabelError(
            f"The fold {text!r} of the clip {clip.name} in {_within(place)} is not known: write train, valid, test or a number."
        )
    return fold


def _official(path: Path, known: Known) -> Iterator[LabelledClip]:
    for number, entry in lists.read_entries(path):
        words = entry.get("labels")
        texts = [words] if isinstance(words, str) else words
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise LabelError(
                f'Entry {number} of {path} has no labels: an official manifest is {{"data": [{{"wav": ..., "labels": ...}}]}}.'
            )
        clip = data.Clip(os.path.join(path.parent, entry["wav"]))
        names = [name for text in texts if text.strip() for name in known.find(text, clip, path)]
        yield LabelledClip(clip, tuple(dict.fromkeys(names)))


def _saved(
    root: Path, files: Sequence[str], known: Known | None, passed: Passed
) -> tuple[list[LabelledClip], tuple[str, ...] | None]:
    """The clips of Parquet and Arrow files, and the names of their classes where a file has them."""
    found: list[tuple[data.Clip, Sequence[str], str, str, str]] = []
    classes: tuple[str, ...] = ()
    folds = {file: _fold_of(Path(file).relative_to(root)) for file in files}
    if len(set(folds.values())) == 1:  # of a set that was never divided
        folds = dict.fromkeys(files, "")
    for file in files:
        if os.path.basename(file).startswith("cache-"):  # of ``datasets``, which keeps what it computed beside a set
            passed.add(clips.TABLE, file)
            continue
        sounds = arrow.read(file, [*LABEL_COLUMNS, *SOURCE_COLUMNS, *FOLD_COLUMNS])
        if sounds is None:
            passed.add(clips.TABLE, file)
            continue
        label, source, fold = (
            next((name for name in names if name in sounds.texts), "")
            for names in (LABEL_COLUMNS, SOURCE_COLUMNS, FOLD_COLUMNS)
        )
        if not label:
            raise LabelError(
                f"{file} has no column {', '.join(LABEL_COLUMNS[:-1])} or {LABEL_COLUMNS[-1]} beside its sounds."
            )
        classes = classes or sounds.classes.get(label, ())
        nothing = [()] * len(sounds.paths)
        columns = (sounds.texts[label], sounds.texts.get(source, nothing), sounds.texts.get(fold, nothing))
        for row, (clip, texts, source_, fold_) in enumerate(
            zip(clips.rows_of(file, sounds, passed), *columns, strict=True)
        ):
            if clip:
                found.append((clip, texts, " ".join(source_), " ".join(fold_) or folds[file], f"Row {row} of {file}"))
    if classes and not known:
        known = Known(classes, {name: name for name in classes}, f"the classes that {root} names")
    return _labelled(found, known), classes or None


def _fold_of(path: Path) -> str:
    """The fold that a file's name or folder begins with: ``train-00000-of-00002.parquet``, ``test/data-00000-of-00001.arrow``."""
    words = [re.split(r"[^a-z]", part.lower())[0] for part in reversed(path.parts)]
    return next((word for word in words if word in FOLDS), "")


def _classes(path: Path, files: Sequence[str], known: Known | None, passed: Passed) -> list[LabelledClip]:
    """One class for each folder within ``path`` that holds some of the files, at any depth, or within its folds."""
    placed = []
    for file in files:
        if folders.is_sound(os.path.basename(file)):
            placed.append((file, os.path.relpath(file, path).split(os.sep)))
        else:
            folders.pass_over(file, passed)
    folds = all(parts[0].lower() in FOLDS for _, parts in placed)
    found = []
    for file, parts in placed:
        if len(parts) < 2 + folds:
            raise LabelError(
                f"The sound {file} lies in no class: put every sound into the folder of its class, or write a task.csv."
            )
        where = os.path.join(path, *parts[: 1 + folds])
        found.append((data.Clip(file), [parts[folds]], "", parts[0] if folds else "", f"The folder {where}"))
    return _labelled(found, known)


def sub_folders(path: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def class_folders(path: Path) -> list[LabelledClip]:
    """One class for each sub-folder that holds sounds, at any depth."""
    return _classes(path, list(folders.walk(path, Passed())), None, Passed())


def sounds(folder: Path) -> Iterator[data.Clip]:
    """The sound files in a folder, at any depth and in a fixed order, without hidden ones."""
    return (data.Clip(file) for file in folders.walk(folder, Passed()) if folders.is_sound(os.path.basename(file)))
