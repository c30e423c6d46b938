"""Which clips train a classifier, which choose its best weights, and which test it. Axes: L labels."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ssast_lab.data.labelled.sets import LabelError, LabelledSet


class Split(NamedTuple):
    """The sets for one classifier, under the same labels."""

    name: str  # of the tested fold; "" where there is only one split
    train: LabelledSet
    valid: LabelledSet  # empty where the set names none
    test: LabelledSet
    made: str = ""  # how, in words

    @property
    def parts(self) -> tuple[LabelledSet, LabelledSet, LabelledSet]:
        return self.train, self.valid, self.test

    def told(self) -> str:
        """How the split was made, and how many clips and sources are on each side."""
        sides = [(self.train, "to learn from"), (self.valid, "to choose by"), (self.test, "to judge by")]
        told = [f"{len(part)} clips{_sources(part)} {what}" for part, what in sides if len(part)]
        return f"{', '.join(told)}; divided {self.made}" if self.made else ", ".join(told)

    @property
    def others(self) -> tuple[LabelledSet, ...]:
        """The sets beside the training set: the validation set, where there is one, and the test set."""
        return (self.valid, self.test) if len(self.valid) else (self.test,)


def splits(labelled: LabelledSet, seed: int = 0) -> list[Split]:
    """The splits of a set, by its folds: one split of train, valid and test; or with numbered folds one split for each fold,
    which is tested while the others train. Where no clip has a fold, :func:`divide` draws them.
    :class:`LabelError` for other folds."""
    made = "by the folds that the set names"
    if not any(labelled.folds):
        labelled = divide(labelled, seed)
        made = f"at random (seed {seed}), " + (
            "all clips of a source on one side"
            if any(labelled.sources)
            else "clip by clip: nothing tells which come from one recording or voice"
        )
    folds = set(labelled.folds)
    numbered = sorted({int(fold) for fold in folds if fold.isdecimal()})
    named = {"train", "test"} <= folds <= {"train", "valid", "test"}
    if not named and not (len(numbered) > 1 and all(fold.isdecimal() for fold in folds)):
        names = ", ".join(sorted(fold or "none" for fold in folds))
        raise LabelError(
            f"The folds of the clips are {names}: use train and test, with valid if you like, or several numbers, "
            "one for every clip."
        )
    if not numbered:
        train, valid, test = (labelled.where(fold) for fold in ("train", "valid", "test"))
        return [Split("", train, valid, test, made)]
    return [
        Split(
            str(k),
            labelled.where(*(str(j) for j in numbered if j != k)),
            labelled.take([]),
            labelled.where(str(k)),
            f"{made}; fold {k} of {len(numbered)} is judged",
        )
        for k in numbered
    ]


def _sources(part: LabelledSet) -> str:
    known = {source for source in part.sources if source}
    return f" of {len(known)} source{'s' if len(known) > 1 else ''}" if known else ""


def divide(labelled: LabelledSet, seed: int = 0, valid: float = 0.1, test: float = 0.2) -> LabelledSet:
    """The same set with folds drawn by the seed. All clips of a source go to one fold: the one that lacks their labels most,
    so that each label has about these shares of the clips, which are counted whatever their length, as each is one example (Sechidis,
    Tsoumakas and Vlahavas 2011). :class:`LabelError` where no clip is
    left to test."""
    groups: dict[str | int, list[int]] = {}
    for i, source in enumerate(labelled.sources):
        groups.setdefault(source or i, []).append(i)
    order = list(groups.values())
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=len, reverse=True)
    names = ("train", "test", "valid")
    lacking = np.outer([1 - valid - test, test, valid], labelled.targets.sum(0))  # (3, L) clips
    folds = [""] * len(labelled)
    for group in order:
        has = labelled.targets[group].sum(0)
        places = np.flatnonzero(has)
        side = int((lacking[:, places] @ has[places]).argmax())
        lacking[side] -= has
        for i in group:
            folds[i] = names[side]
    if "test" not in folds:
        raise LabelError(
            f"No test set can be drawn from {len(labelled)} clips of {len(groups)} sources: add some, or name the folds."
        )
    return replace(labelled, folds=tuple(folds))
