"""Labelled sets of sound. Axes: C clips, L labels."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ssast_lab import data


class LabelError(ValueError):
    """A labelled set that cannot be used: the message says what is wrong, where, and what to do."""


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Clips with their labels."""

    labels: tuple[str, ...]  # (L,) names, in order
    clips: tuple[data.Clip, ...]  # (C,)
    targets: np.ndarray  # (C, L) float32: 1 where the clip has the label
    sources: tuple[str, ...]  # (C,) voice, kit, game ...: clips of one source belong on one side of a split; "" unknown
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
            raise LabelError(f"The label {twice!r} occurs twice among the labels: give each its own name.")

    def __len__(self) -> int:
        return len(self.clips)

    @cached_property
    def multi(self) -> bool:
        """Whether some clip has several labels, or none."""
        return bool((self.targets.sum(1) != 1).any())

    def take(self, indices: Sequence[int] | np.ndarray) -> "LabelledSet":
        """The clips with these numbers, in this order, under the same labels."""
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


def joined(sets: Sequence[LabelledSet]) -> LabelledSet:
    """Sets with the same labels, one after the other."""
    return LabelledSet(
        sets[0].labels,
        tuple(clip for one in sets for clip in one.clips),
        np.concatenate([one.targets for one in sets]),
        tuple(source for one in sets for source in one.sources),
        tuple(fold for one in sets for fold in one.folds),
    )


class LabelledClip(NamedTuple):
    """One clip as a reader found it."""

    clip: data.Clip
    labels: tuple[str, ...]
    source: str = ""
    fold: str = ""


def build(
    entries: Iterable[LabelledClip], labels: Sequence[str] | None = None, *, origin: str | os.PathLike[str]
) -> LabelledSet:
    """A set of the entries read from ``origin``. Without ``labels``, the labels that occur are taken, sorted.
    :class:`LabelError` for a clip without labels, with contradictory or with unknown ones, and where there is no clip."""
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
                f"The clip {entry.clip.name} occurs twice in {origin} with different labels: "
                'write one line for it, with its labels joined by ";".'
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
