"""The table of tasks, ``tasks.json``.

A task has "labels" in their order, "folds" ({"test": [pattern of sources], "valid": [...]}; every other source is
trained on), "most" clips of one label in a fold, "packages", and for its card a "question" and "weaknesses". A package
has its "megabytes" to download, its "licence" ("licences" are those of single files, as in ``corpus.json``), and two
lists of rules, [regular expression, value]: "labels" and "sources". The first that is found in a sound's path decides;
the value may use its groups (``\\1``), and null takes nothing. Sources without a rule are the package. A sound that is a
part of a file has a path "file#part". "speak" makes the sounds of a speech synthesis program: the "program", its
"arguments", "voices" and "texts".
"""

import json
import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent.with_suffix(".json")
FOLDS = ("train", "valid", "test")


class TaskError(RuntimeError):
    """A task cannot be built or is damaged: the message says what is missing and what to do."""


def read_table(path: str | os.PathLike = TABLE) -> dict[str, Any]:
    """The tasks by name, checked: their rules give labels that they have, and can be read."""
    tasks = json.loads(Path(path).read_text(encoding="utf-8"))["tasks"]
    for name, task in tasks.items():
        if "test" not in task["folds"] or not set(task["folds"]) <= {"test", "valid"}:
            raise TaskError(f'{path}: the folds of {name} are patterns of its sources for "test" and, if any, "valid".')
        for package in task["packages"]:
            for pattern, value in [*package["labels"], *package.get("sources", ())]:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise TaskError(f"{path}: {name}, {package['name']}: {pattern!r} is no pattern: {error}.") from None
            fixed = {label for _, label in package["labels"] if label is not None and "\\" not in label}
            if unknown := fixed - set(task["labels"]):
                raise TaskError(f"{path}: {name} has no label {sorted(unknown)[0]!r}.")
    return tasks


def names(table: str | os.PathLike = TABLE) -> tuple[str, ...]:
    """The tasks that there are."""
    return tuple(read_table(table))


def megabytes(task: dict[str, Any]) -> float:
    """What must be downloaded for a task, in MB (Debian 12)."""
    return round(sum(package["megabytes"] for package in task["packages"]), 1)


def first(rules: list[list], path: str) -> str | None:
    """What the first rule that fits a path says."""
    for pattern, value in rules:
        if match := re.search(pattern, path):
            return value and match.expand(value)
    return None


def fold_of(task: dict[str, Any], source: str) -> str:
    return next((f for f, patterns in task["folds"].items() if any(fnmatchcase(source, p) for p in patterns)), "train")
