"""Model files in the folders that the owner opened, and how each was read."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssast_lab import analysis, checkpoint
from ssast_lab.analysis import Fingerprint
from ssast_lab.checkpoint import CheckpointError, LoadReport

FILES = (".pth", ".pt")
DEEPEST = 3  # folders within one that was opened
MOST = 500  # entries
MARKS = (checkpoint.CONFIG, "checkpoints", "model")  # of a folder that is one model


@dataclass(frozen=True)
class Opened:
    """A model file that was read."""

    model: checkpoint.Model
    report: LoadReport
    about: dict[str, Any]  # what it says of itself, to be trusted in nothing
    fingerprint: Fingerprint | None  # of what has our encoder


class Shelf:
    """Only what stands on it can be opened: a name is looked up, never made into a path."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self.folders = tuple(folders)

    def entries(self) -> dict[str, Path]:
        """Name -> built-in model, or model, run or file in a folder that was opened."""
        found = dict(checkpoint.builtin_models())
        for folder in self.folders:
            top = folder.resolve()
            for path in _models_in(top):
                if len(found) >= MOST:
                    return found
                name = os.fsencode(path.relative_to(top.parent)).decode("utf-8", "replace")
                found[name if name not in found else f"{name} ({len(found)})"] = path
        return found

    def open(self, name: str) -> Opened:
        """:class:`CheckpointError` names the model as the shelf does, never where it lies."""
        path = self.entries().get(name)
        if path is None:
            raise CheckpointError(f"There is no model {name!r} in the folders that were opened with --models.")
        return self.open_at(path, name)

    def open_at(self, path: Path, name: str) -> Opened:
        """A model that is not on the shelf, such as the one in use: its place is not a visitor's to choose."""
        try:
            return opened(path, path.stat().st_mtime_ns)
        except (CheckpointError, OSError) as error:
            raise CheckpointError(" ".join(str(error).replace(str(path), name).split())) from None


def _models_in(folder: Path, depth: int = 0) -> Iterator[Path]:
    if any((folder / mark).exists() for mark in MARKS):
        yield folder
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        if path.name.startswith("."):
            continue
        if path.is_dir() and depth < DEEPEST:
            yield from _models_in(path, depth + 1)
        elif path.suffix in FILES and path.is_file():
            yield path


@lru_cache(maxsize=2)
def opened(path: Path, changed: int) -> Opened:
    """A model by its path and the time of its last change."""
    model, report = checkpoint.load_with_report(path)
    about = checkpoint.describe(path)["about"] if path.is_dir() else {}
    return Opened(model, report, about, analysis.fingerprint(model))
