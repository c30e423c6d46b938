"""Labelled sets of sound: which clip has which labels, from which source it comes, and on which side of a split it stands.

Axes: C clips, L labels. A set is read whole before anything is trained, and :func:`check` refuses a split that would give
figures worth nothing: the same recording, voice or instrument in training and in the test.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssast_lab import data

LABEL_COLUMNS = ("label", "labels", "category", "class")  # of a manifest, the first that is there
SOURCE_COLUMNS = ("source", "group", "speaker", "src_file")
FOLD_COLUMNS = ("fold", "split")
FOLDS = {  # how folds are called elsewhere
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip

Path_ = str | os.PathLike[str]


class LabelError(ValueError):
    """A labelled set that cannot be used: the message says what is wrong, where, and what to do."""


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Clips with their labels."""

    labels: tuple[str, ...]  # (L,) names, in order
    clips: tuple[data.Clip, ...]  # (C,)
    targets: np.ndarray  # (C, L) float32: 1 where the clip has the label
    sources: tuple[str, ...]  # (C,) what may not stand on both sides of a split: voice, kit, game; "" unknown
    folds: tuple[str, ...]  # (C,) "train", "valid", "test", or a number "1", "2", ...; "" unknown

    def __post_init__(self) -> None:
        count = len(self.clips)
        if self.targets.shape != (count, len(self.labels)) or {len(self.sources), len(self.folds)} != {count}:
            raise ValueError(
                f"{count} clips and {len(self.labels)} labels do not fit targets of shape {self.targets.shape}, "
                f"{len(self.sources)} sources and {len(self.folds)} folds."
            )
        if len(set(self.labels)) != len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise LabelError(f"The label {twice!r} stands twice among the labels: give each its own name.")

    def __len__(self) -> int:
        return len(self.clips)

    @cached_property
    def multi(self) -> bool:
        """Some clip has not exactly one label."""
        return bool((self.targets.sum(1) != 1).any())

    def take(self, indices: Sequence[int] | np.ndarray) -> "LabelledSet":
        """The clips at these places, in this order, under the same labels."""
        indices = np.asarray(indices, dtype=np.int64)
        return LabelledSet(
            self.labels,
            tuple(self.clips[i] for i in indices),
            self.targets[indices],
            tuple(self.sources[i] for i in indices),
            tuple(self.folds[i] for i in indices),
        )

    def where(self, *folds: str) -> "LabelledSet":
        """The clips of these folds, under the same labels; empty where there are none."""
        return self.take([i for i, fold in enumerate(self.folds) if fold in folds])


class Entry(NamedTuple):
    """One clip as it was read."""

    clip: data.Clip
    labels: tuple[str, ...]
    source: str = ""
    fold: str = ""


def build(entries: Iterable[Entry], labels: Sequence[str] | None = None, *, origin: Path_) -> LabelledSet:
    """A set out of entries read from ``origin``; without ``labels``, those that occur are the labels, sorted."""
    entries = list(entries)
    if not entries:
        raise LabelError(f"No labelled sound was found in {origin}.")
    if labels is None:
        labels = _sorted({label for entry in entries for label in entry.labels})
    places = {label: place for place, label in enumerate(labels)}
    targets = np.zeros((len(entries), len(labels)), dtype=np.float32)
    seen: dict[tuple[data.Clip, str], tuple[str, ...]] = {}
    for row, entry in enumerate(entries):
        if not entry.labels:
            raise LabelError(f"The clip {entry.clip.name} in {origin} has no label: give it one, or leave it out.")
        if seen.setdefault((entry.clip, entry.fold), entry.labels) != entry.labels:
            raise LabelError(
                f"The clip {entry.clip.name} stands in {origin} twice with different labels: "
                'write one line for it, with its labels joined with ";".'
            )
        for label in entry.labels:
            if label not in places:
                raise LabelError(
                    f"The label {label!r} of the clip {entry.clip.name} in {origin} is not among the {len(places)} "
                    "labels that were given: correct it, or add it there."
                )
            targets[row, places[label]] = 1
    return LabelledSet(
        tuple(labels),
        tuple(entry.clip for entry in entries),
        targets,
        tuple(entry.source for entry in entries),
        tuple(entry.fold for entry in entries),
    )


def _sorted(labels: set[str]) -> list[str]:
    numbers = all(label.isdecimal() for label in labels)
    return sorted(labels, key=lambda label: (int(label), label) if numbers else label)  # type: ignore[arg-type,return-value]


# --- readers ------------------------------------------------------------------------------------------------------


def read_labelled(path: Path_, labels: Path_ | Sequence[str] | None = None) -> LabelledSet:
    """A labelled set from

    - a folder that holds ``task.csv``, or a CSV or TSV: columns ``path`` (or ``wav``, ``file``, ``filename``) and ``label``
      (or ``labels``, ``category``, ``class``; several joined with ";"), and if they are known ``source`` (or ``group``,
      ``speaker``) and ``fold`` (or ``split``); relative paths are relative to the manifest,
    - the official JSON (YuanGongND/ssast: ``{"data": [{"wav": path, "labels": "/m/a,/m/b"}]}``), with its label file,
    - a folder with one sub-folder for each class, or such folders under ``train/``, ``valid/`` and ``test/``.

    ``labels`` is the official label file (CSV ``index,mid,display_name``), or the names of the labels in order: give those of
    the training set to whatever is compared with it. :class:`LabelError` for anything that cannot be used.
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
                f"{path} names its labels by codes, so that it needs the label file beside it: "
                "a CSV with the columns index, mid and display_name."
            )
        entries, origin = list(_official(path, known)), path
    elif path.suffix.lower() in (".csv", ".tsv"):
        entries, origin = list(_table(path, known)), path
    else:
        raise LabelError(f"{path} is no labelled set: expected a folder, .csv, .tsv or .json.")
    return build(entries, known.names if known else None, origin=origin)


class _Known(NamedTuple):
    """The labels that there are, and what each may be called."""

    names: tuple[str, ...]  # (L,)
    called: dict[str, str]  # code or name -> name
    origin: str

    def find(self, text: str, separator: str, clip: data.Clip, origin: Path) -> tuple[str, ...]:
        """The labels that a text joins. A name may itself hold the separator ("Male speech, man speaking")."""
        words = text.split(separator)
        found: list[str] = []
        while words:
            for end in range(len(words), 0, -1):
                name = self.called.get(separator.join(words[:end]).strip())
                if name is not None:
                    break
            else:
                raise LabelError(
                    f"The label {words[0].strip()!r} of the clip {clip.name} in {origin} is not in {self.origin}: "
                    "add it there, or correct it."
                )
            found.append(name)
            words = words[end:]
        return tuple(dict.fromkeys(found))


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
    rows = list(_rows(path, ("index", "mid", "display_name")))
    try:
        rows.sort(key=lambda row: int(row["index"]))
        whole = [int(row["index"]) for row in rows] == list(range(len(rows)))
    except ValueError:
        whole = False
    if not whole:
        raise LabelError(
            f"The column index of the label file {path} must number its lines 0, 1, 2 and so on, each once."
        )
    names = tuple(row["display_name"] for row in rows)
    codes = [row["mid"] for row in rows]
    for words in (names, codes):
        if len(set(words)) != len(words):
            twice = next(word for word in words if words.count(word) > 1)
            raise LabelError(f"{twice!r} stands twice in the label file {path}: give each label its own line.")
    called = dict(zip(names, names, strict=True)) | dict(zip(codes, names, strict=True))
    return _Known(names, called, f"the label file {path}")


def _rows(path: Path, needed: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The lines of a CSV or TSV, column names in small letters, texts stripped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
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


def _table(path: Path, known: _Known | None) -> Iterator[Entry]:
    names: list[str | None] | None = None
    for row in _rows(path):
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
            found = known.find(label, ";", clip, path) if label else ()
        else:
            found = tuple(dict.fromkeys(word.strip() for word in label.split(";") if word.strip()))
        yield Entry(clip, found, source, _fold(fold, clip, path))


def _fold(text: str, clip: data.Clip, origin: Path) -> str:
    fold = str(int(text)) if text.isdecimal() else FOLDS.get(text.lower(), "") if text else ""
    if text and not fold:
        raise LabelError(
            f"The fold {text!r} of the clip {clip.name} in {origin} is not known: write train, valid, test or a number."
        )
    return fold


def _official(path: Path, known: _Known) -> Iterator[Entry]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8-sig"))["data"]
        found = [(str(item["wav"]), item["labels"]) for item in listed]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise LabelError(
            f'{path} is no official manifest ({{"data": [{{"wav": ..., "labels": ...}}]}}): {type(error).__name__}: {error}.'
        ) from None
    for file, labels in found:
        clip = data.Clip(os.path.join(path.parent, file))
        words = [labels] if isinstance(labels, str) else [str(label) for label in labels]
        names = [name for text in words if text.strip() for name in known.find(text, ",", clip, path)]
        yield Entry(clip, tuple(dict.fromkeys(names)))


def _folder(path: Path) -> list[Entry]:
    folders = sub_folders(path)
    if folders and all(folder.name.lower() in FOLDS for folder in folders):
        return [
            entry._replace(fold=FOLDS[folder.name.lower()]) for folder in folders for entry in class_folders(folder)
        ]
    return class_folders(path)


def sub_folders(path: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def class_folders(path: Path) -> list[Entry]:
    """One class for each sub-folder that holds sounds, at any depth."""
    loose = next((file for file in sorted(path.iterdir()) if _is_sound(file)), None)
    if loose:
        raise LabelError(
            f"The sound {loose} lies in no class: put every sound into the folder of its class, or write task.csv."
        )
    return [Entry(clip, (folder.name,)) for folder in sub_folders(path) for clip in sounds(folder)]


def sounds(folder: Path) -> Iterator[data.Clip]:
    """The sound files of a folder at any depth, in a fixed order, without hidden ones."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (data.Clip(os.path.join(parent, name)) for name in sorted(names) if _is_sound(Path(parent, name)))


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in data.EXTENSIONS and not path.name.startswith(".") and path.is_file()


# --- what a split must be -----------------------------------------------------------------------------------------


def check(train: LabelledSet, *others: LabelledSet) -> None:
    """:class:`LabelError` where a training set, or the sets that stand beside it (validation, test), would give figures worth
    nothing: an empty set, fewer than two classes, a class with one clip to train on, a label that is tested and never
    trained, a missing file, and the same file, content or source in two of the sets."""
    names = ["training", *(_called(other) for other in others)]
    sets = [train, *others]
    for name, one in zip(names, sets, strict=True):
        if not len(one):
            raise LabelError(f"The {name} set is empty: nothing stands in it.")
        if one.labels != train.labels:
            raise LabelError(
                f"The {name} set has other labels than the training set ({len(one.labels)} and {len(train.labels)}, or in "
                "another order): read it with the labels of the training set."
            )
    counts = train.targets.sum(0)
    if (counts > 0).sum() < 2:
        raise LabelError(
            f"The training set shows {(counts > 0).sum()} class: to tell sounds apart there must be two at least."
        )
    for place in np.flatnonzero(counts == 1).tolist():
        clip = train.clips[int(train.targets[:, place].argmax())].name
        raise LabelError(
            f"The class {train.labels[place]!r} has a single clip to train on, {clip}: add more, or leave the class out."
        )
    for name, other in zip(names[1:], others, strict=True):
        for place in np.flatnonzero((other.targets.sum(0) > 0) & (counts == 0)).tolist():
            clip = other.clips[int(other.targets[:, place].argmax())].name
            raise LabelError(
                f"The label {train.labels[place]!r} is in the {name} set, on {clip}, but on no clip of the training set: "
                "no model can learn it."
            )
    _refuse_shared_sources(names, sets)
    _refuse_shared_files(names, sets)


def _called(other: LabelledSet) -> str:
    folds = set(other.folds)
    fold = folds.pop() if len(folds) == 1 else ""
    return {"valid": "validation", "test": "test", "train": "training", "": "other"}.get(fold, f"fold {fold}")


def _refuse_shared_sources(names: Sequence[str], sets: Sequence[LabelledSet]) -> None:
    first: dict[str, tuple[int, str]] = {}
    for number, one in enumerate(sets):
        for source, clip in zip(one.sources, one.clips, strict=True):
            if source:
                where, other = first.setdefault(source, (number, clip.name))
                if where != number:
                    raise LabelError(
                        f"The split leaks: the source {source!r} is in the {names[where]} set ({other}) and in the "
                        f"{names[number]} set ({clip.name}): move all that comes from one source to one side."
                    )


def _refuse_shared_files(names: Sequence[str], sets: Sequence[LabelledSet]) -> None:
    places: list[tuple[int, data.Clip]] = []
    keys: list[tuple[int | str | bytes, ...]] = []
    for number, one in enumerate(sets):
        for clip in one.clips:
            try:
                size = clip.span[1] if clip.span else os.stat(clip.path).st_size
            except OSError:
                raise LabelError(
                    f"The clip {clip.name} of the {names[number]} set does not exist: is its path right?"
                ) from None
            places.append((number, clip))
            keys.append((size,))
    for extend in (_middle, _digest):  # each reads more of fewer files
        suspects = _on_both_sides(places, keys)
        keys = [(*key, extend(places[i][1])) if i in suspects else (i,) for i, key in enumerate(keys)]
    suspects = _on_both_sides(places, keys)
    if suspects:
        i = min(suspects)
        j = next(j for j in sorted(suspects) if keys[j] == keys[i] and places[j][0] != places[i][0])
        (one, clip), (two, copy) = places[i], places[j]
        same = "the file" if os.path.realpath(clip.path) == os.path.realpath(copy.path) else "the content of"
        raise LabelError(
            f"The split leaks: {same} {clip.name} of the {names[one]} set is also in the {names[two]} set, as {copy.name}: "
            "take it out of one of them."
        )


def _on_both_sides(places: Sequence[tuple[int, data.Clip]], keys: Sequence[tuple[int | str | bytes, ...]]) -> set[int]:
    sides: dict[tuple[int | str | bytes, ...], set[int]] = {}
    for (number, _), key in zip(places, keys, strict=True):
        sides.setdefault(key, set()).add(number)
    return {i for i, key in enumerate(keys) if len(sides[key]) > 1}


def _middle(clip: data.Clip) -> bytes:
    """A piece from which most different sounds of one size can be told apart."""
    start, size = clip.span or (0, os.path.getsize(clip.path))
    with open(clip.path, "rb") as file:
        file.seek(start + size // 2)
        return file.read(min(64, size - size // 2))


def _digest(clip: data.Clip) -> bytes:
    opened = clip.open()
    content = Path(opened).read_bytes() if isinstance(opened, str) else opened.read()
    return hashlib.sha256(content).digest()
