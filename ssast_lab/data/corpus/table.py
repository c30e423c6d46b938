"""The table of packages, ``corpus.json``: what each holds, and what never comes into the corpus.

"packages" lists them with their role (train, heldout or elsewhere), the size from which on they take part, their licence,
and their files' kinds: [pattern, kind], the first that fits decides, null takes nothing. "clips" limits the clips per kind,
"cut" says how many seconds are taken from the middle of a file of a kind, where that is not what ``clips.CUT`` says,
"group" is a regular expression whose first group (a voice, by default the folder) stays together when clips are joined,
"carve" names files of some game's own format that sounds are cut out of, "licences" are those of single files. "reserved" names files that are kept for something else, "left_out" whole packages.
"""

import csv
import json
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent.with_suffix(".json")
KINDS = ("speech", "music", "effect")
ROLES = ("train", "heldout", "elsewhere")
SIZES = ("small", "large")


class CorpusError(RuntimeError):
    """The corpus cannot be built or is damaged: the message says what is missing and what to do."""


def read_table(path: str | os.PathLike = TABLE) -> dict[str, Any]:
    """The table of packages, checked: no package is left out and used, or held out and trained on."""
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    names = [entry["name"] for entry in table["packages"]]
    if len(set(names)) < len(names):
        raise CorpusError(f"{path} names a package twice; each has one role.")
    if both := set(names) & set(table["left_out"]["packages"]):
        raise CorpusError(f"{path} both uses and leaves out {', '.join(sorted(both))}.")
    for entry in table["packages"]:
        if entry["role"] not in ROLES or entry["size"] not in SIZES:
            raise CorpusError(
                f"{path}: {entry['name']} needs a role ({', '.join(ROLES)}) and a size ({', '.join(SIZES)})."
            )
        if bad := [kind for _, kind in entry["kinds"] if kind not in (*KINDS, None)]:
            raise CorpusError(
                f"{path}: {entry['name']} has the kind {bad[0]!r}; there are {', '.join(KINDS)} and null."
            )
    return table


def reserved(table: dict[str, Any], package: str, path: str) -> str | None:
    """Which task or use a package's file is kept for, or None when the corpus may hold it."""
    if package in table["left_out"]["packages"]:
        return "independent evaluation"
    return next(
        (
            rule["use"]
            for rule in table["reserved"]
            if rule["package"] == package and any(fnmatchcase(path, p) for p in rule["paths"])
        ),
        None,
    )


def kind_of(entry: dict[str, Any], path: str) -> str | None:
    """speech, music, effect, or None for a file that is not taken: the first pattern that fits decides."""
    return next((kind for pattern, kind in entry["kinds"] if fnmatchcase(path, pattern)), None)


def licence_of(entry: dict[str, Any], path: str) -> str:
    """The licence of a package's file: its own where the table knows one, else the package's."""
    special = (licence for pattern, licence in entry.get("licences", ()) if fnmatchcase(path, pattern))
    return next(special, entry["licence"])


COLUMNS = ("shard", "clip", "role", "kind", "package", "licence", "seconds", "files")  # of a corpus's manifest.tsv


def read_rows(manifest: Path) -> list[dict[str, str]]:
    """The clips that a corpus's ``manifest.tsv`` lists. :class:`CorpusError` where it cannot be read or is none."""
    try:
        with manifest.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise CorpusError(f"{manifest} is no corpus's manifest: its first line is not {' '.join(COLUMNS)}.")
            return list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{manifest} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
