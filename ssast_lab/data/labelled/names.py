"""What the labels of a set are called, and texts that name several of them. Axes: L labels."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssast_lab import data
from ssast_lab.data.labelled.sets import LabelError
from ssast_lab.data.lists import read_table

Path_ = str | os.PathLike[str]


class Known(NamedTuple):
    """The labels that may occur, and the codes and names that stand for them."""

    names: tuple[str, ...]  # (L,)
    name_of: dict[str, str]  # code or name -> name
    origin: str

    def find(self, text: str, clip: data.Clip, origin: str | os.PathLike[str]) -> tuple[str, ...]:
        """The labels in a text, parted by ";", "|" or ",". A name may itself contain one of these ("Male speech, man
        speaking"), so that the longest name is looked for first."""
        words = re.split("([;|,])", text)  # every second one is a separator
        labels: list[str] = []
        while words:
            for end in range(len(words), 0, -2):
                name = self.name_of.get("".join(words[:end]).strip())
                if name is not None:
                    break
            else:
                if not words[0].strip():  # before, after or between separators
                    words = words[2:]
                    continue
                raise LabelError(
                    f"The label {words[0].strip()!r} of the clip {clip.name} in {origin} is not in {self.origin}: "
                    "add it there, or correct it."
                )
            labels.append(name)
            words = words[end + 1 :]
        return tuple(dict.fromkeys(labels))


def parted(texts: Sequence[str], places: Sequence[str]) -> list[tuple[str, ...]]:
    """The labels in each text of a set whose labels are not known otherwise. ";" and "|" part them. Where neither occurs, a
    comma does if all that it parts are labels of their own in other texts, and belongs to a name ("Male speech, man
    speaking") if nothing that it parts occurs elsewhere. :class:`LabelError`, with the place, for what lies between."""
    found = [tuple(dict.fromkeys(word for part in re.split("[;|]", text) if (word := part.strip()))) for text in texts]
    names = {name for labels in found for name in labels}
    lists = {name: [word.strip() for word in name.split(",")] for name in names if "," in name}
    if not lists or any(mark in text for text in texts for mark in ";|"):
        return found
    alone = names - lists.keys()
    if all(alone.issuperset(words) for words in lists.values()):
        return [tuple(dict.fromkeys(word for name in labels for word in lists.get(name, [name]))) for labels in found]
    counts = Counter(word for words in lists.values() for word in set(words))
    for labels, place in zip(found, places, strict=True):
        for name in labels:
            if any(word in alone or counts[word] > 1 for word in lists.get(name, ())):
                raise LabelError(
                    f'{place} names {name!r}, which may be one label or several: part several by ";", or name all labels in '
                    "a label file."
                )
    return found


def known_labels(labels: Path_ | Sequence[str] | None) -> Known | None:
    if labels is None:
        return None
    if isinstance(labels, str | os.PathLike):
        return read_label_file(labels)
    names = tuple(labels)
    return Known(names, {name: name for name in names}, f"the {len(names)} labels that were given")


def read_label_file(path: Path_) -> Known:
    """The official label file: CSV with the columns index, mid and display_name; labels in the order of the index."""
    path = Path(path)
    if not path.is_file():
        raise LabelError(
            f"There is no label file {path}: a CSV with the columns index, mid and display_name was expected."
        )
    rows = table_rows(path, ("index", "mid", "display_name"))
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
    return Known(names, name_of, f"the label file {path}")


def table_rows(path: Path_, needed: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV or TSV (:func:`ssast_lab.data.lists.read_table`). :class:`LabelError` where a needed column is missing
    or the file is no table."""
    try:
        table = read_table(path)
        for name in needed:
            table.needed([name])
    except data.DataError as error:
        raise LabelError(str(error)) from None
    return [row.cells for row in table.rows]
