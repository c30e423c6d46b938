"""The table of tasks, ``tasks.json``.

A task has "labels" in their order, "folds" ({"test": [pattern of sources], "valid": [...]}; every other source is
trained on), "most" clips of one label in a fold, "packages", and for its card a "question" and "weaknesses". A package
has its "megabytes" to download, its "licence" ("licences" are those of single files, as in ``corpus.json``), and two
lists of rules, [regular expression, value]: "labels" and "sources". The first expression that matches a sound's path
decides. The value may use its groups (``\\1``); null leaves the sound out. Without a rule, the package is the source. The
path of a part of a file is "file#part". "speak" makes sounds by a speech synthesis program: the "program", its
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
    """A task that cannot be built, or is damaged. The message says what is missing and what to do."""


def read_table(path: str | os.PathLike = TABLE) -> dict[str, Any]:
    """Name -> task. :class:`TaskError` for folds, rules or labels that do not fit."""
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
    """The names of all tasks."""
    return tuple(read_table(table))


def megabytes(task: dict[str, Any]) -> float:
    """The size of a task's downloads in MB (Debian 12)."""
    return round(sum(package["megabytes"] for package in task["packages"]), 1)


def first_match(rules: list[list], path: str) -> str | None:
    """The value of the first rule that matches a path; None where none does, or its value is null."""
    for pattern, value in rules:
        if match := re.search(pattern, path):
            return value and match.expand(value)
    return None


def fold_of(task: dict[str, Any], source: str) -> str:
    """The fold of a source: the one whose patterns it matches, else "train"."""
    return next((f for f, patterns in task["folds"].items() if any(fnmatchcase(source, p) for p in patterns)), "train")
