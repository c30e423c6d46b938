"""Which length and stride a file's positions were made for, where it does not say so: an official checkpoint after fine-tuning.

N positions fit every grid of N patches. The strides that official recipes use leave few of these; the positions themselves often
tell the right one, because neighbours in frequency resemble each other: positions are learned so, and the official code
interpolates them when it makes patches overlap. Axes: N patches, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

OVERLAP = 10  # the stride at which the official recipes fine-tune patches
LENGTHS = (1024, 512, 128, 100, 600, 1000, 998)  # frames, in the official recipes
CLEAR = 0.1  # by which the likeness of neighbours must differ to tell layouts apart


class LayoutWarning(UserWarning):
    """A file fits several layouts: the message says which, which was taken and why, and how to choose another."""


@dataclass(frozen=True)
class Layout:
    """A grid that a number of positions fits."""

    stride: tuple[int, int]  # (mel bins, frames)
    rows: int
    columns: int
    frames: int  # the length of a recipe, or the shortest, that gives so many columns
    longest: int  # the longest that does
    likeness: float  # of neighbours in frequency, a correlation; nan where there is one row

    def __str__(self) -> str:
        length = f"{self.frames} frames" if self.frames == self.longest else f"{self.frames} to {self.longest} frames"
        return f"{length} at a stride of {self.stride[0]}x{self.stride[1]} ({self.rows} x {self.columns} patches)"


def strides_of(patch: tuple[int, int], mel_bins: int, fine_tuned: bool) -> list[tuple[int, int]]:
    """Those of the official recipes, the usual one first."""
    if not fine_tuned:
        return [patch]
    return [(patch[0], 1), patch] if patch[0] == mel_bins else [(OVERLAP, OVERLAP), patch]


def layouts(
    positions: Tensor,
    patch: tuple[int, int],
    mel_bins: int,
    strides: Sequence[tuple[int, int]],
    frames: int | None = None,
) -> list[Layout]:
    """The layouts that (N, D) positions fit, the likeliest first: one that has the length of a recipe before others, unless the
    likeness of neighbours clearly says otherwise. ``frames`` leaves those that have so many."""
    count, found = len(positions), []
    for stride in strides:
        rows = (mel_bins - patch[0]) // stride[0] + 1
        columns, rest = divmod(count, rows)
        if rest or not columns:
            continue
        shortest = (columns - 1) * stride[1] + patch[1]
        within = range(shortest, shortest + stride[1])
        if frames is not None and frames not in within:
            continue
        usual = next((length for length in LENGTHS if length in within), shortest)
        found.append(Layout(stride, rows, columns, frames or usual, within[-1], likeness(positions, rows, columns)))
    # the official recipes fine-tune patches at the first stride only, and frames at both
    found.sort(key=lambda layout: layout.frames not in LENGTHS or (layout.rows > 1 and layout.stride != strides[0]))
    best = sorted(found, key=lambda layout: -layout.likeness)
    if len(found) > 1 and best[0].likeness - best[1].likeness > CLEAR:
        found = best
    return found


def likeness(positions: Tensor, rows: int, columns: int) -> float:
    """The correlation of positions with those of the next row."""
    if rows == 1:
        return float("nan")
    table = positions.detach().float().unflatten(0, (rows, columns))
    table = table - table.mean((0, 1))
    power = table.square().mean()
    return float((table[1:] * table[:-1]).mean() / power) if power > 0 else float("nan")


def said(found: Sequence[Layout]) -> str:
    """That several layouts fit, as a sentence for users; empty where one does."""
    if len(found) < 2:
        return ""
    first, others = found[0], found[1:]
    clear = first.likeness - max(one.likeness for one in others) > CLEAR
    if clear:
        numbers = " against ".join(f"{one.likeness:.2f}" for one in found)
        why = f"in it neighbouring positions are alike ({numbers})"
    elif first.frames in LENGTHS:
        why = "the official recipes have that length"
    else:
        why = "official recipes fine-tune at that stride, and nothing else in the file tells them apart"
    choices = " or ".join(f"FILE?frames={one.frames}&stride={one.stride[0]}x{one.stride[1]}" for one in found)
    return (
        f"fits several layouts: {first} was taken, because {why}; {' and '.join(map(str, others))} would fit as well. Say which "
        f"it is: {choices} wherever a model is named, frames= and stride= in Python"
    )
