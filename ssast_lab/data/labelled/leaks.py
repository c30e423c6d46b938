"""Checks that the figures of a split can be trusted."""

import os
from collections.abc import Sequence

import numpy as np

from ssast_lab import data
from ssast_lab.data.labelled.sets import LabelError, LabelledSet


def check(train: LabelledSet, *others: LabelledSet, contents: bool = True) -> None:
    """:class:`LabelError` where a training set and the sets beside it (validation, test) would give meaningless figures: an
    empty set, fewer than two classes, a class with one clip to train on, a label that is tested and never trained, a missing
    file, and the same file, content or source in two of the sets.

    Contents are compared only of files of equal size, and completely only where 64 bytes from the middle agree.
    ``contents=False`` skips that: published splits are used as they are, even where they hold copies under other names."""
    names = ["training", *(_called(other) for other in others)]
    sets = [train, *others]
    for name, one in zip(names, sets, strict=True):
        if not len(one):
            raise LabelError(f"The {name} set is empty: it has no clip.")
        if one.labels != train.labels:
            raise LabelError(
                f"The {name} set has other labels than the training set ({len(one.labels)} and {len(train.labels)}, or in "
                "another order): read it with the labels of the training set."
            )
    counts = train.targets.sum(0)
    if (counts > 0).sum() < 2:
        raise LabelError(f"The training set has clips of {(counts > 0).sum()} class: a classifier needs at least two.")
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
    _refuse_shared_files(names, sets, contents)


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
                        f"{names[number]} set ({clip.name}): move all clips of one source to one side."
                    )


def _refuse_shared_files(names: Sequence[str], sets: Sequence[LabelledSet], contents: bool) -> None:
    places = [(number, clip) for number, one in enumerate(sets) for clip in one.clips]
    files, sizes = [], []
    for number, clip in places:
        try:
            file = os.stat(clip.path)
        except OSError:
            raise LabelError(
                f"The clip {clip.name} of the {names[number]} set does not exist: is its path right?"
            ) from None
        start, size = clip.span or (0, file.st_size)
        files.append((file.st_dev, file.st_ino, start))
        sizes.append((size,))
    _refuse_shared(names, places, files, "the file")
    if contents:
        keys: list[tuple[int | bytes, ...]] = list(sizes)
        for more in (_middle, data.Clip.sha256):  # each reads more of fewer files
            suspects = _in_several_sets(places, keys)
            keys = [(*key, more(places[i][1])) if i in suspects else (i,) for i, key in enumerate(keys)]
        _refuse_shared(names, places, keys, "the content of")


def _refuse_shared(
    names: Sequence[str], places: Sequence[tuple[int, data.Clip]], keys: Sequence[tuple[int | bytes, ...]], what: str
) -> None:
    suspects = sorted(_in_several_sets(places, keys))
    if suspects:
        key, (number, clip) = keys[suspects[0]], places[suspects[0]]
        other, copy = next(places[i] for i in suspects if keys[i] == key and places[i][0] != number)
        raise LabelError(
            f"The split leaks: {what} {clip.name} of the {names[number]} set is also in the {names[other]} set, as "
            f"{copy.name}: take it out of one of them."
        )


def _in_several_sets(places: Sequence[tuple[int, data.Clip]], keys: Sequence[tuple[int | bytes, ...]]) -> set[int]:
    """The numbers of the places whose key occurs in more than one set."""
    sides: dict[tuple[int | bytes, ...], set[int]] = {}
    for (number, _), key in zip(places, keys, strict=True):
        sides.setdefault(key, set()).add(number)
    return {i for i, key in enumerate(keys) if len(sides[key]) > 1}


def _middle(clip: data.Clip) -> bytes:
    """64 bytes that differ between most sounds of one size."""
    size = clip.span[1] if clip.span else os.path.getsize(clip.path)
    return clip.read(size // 2, 64)
