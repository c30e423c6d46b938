"""What the curves of a pretraining run say, in a plain sentence."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Finding = Literal["starting", "learning", "at chance", "flat", "diverging", "memorising"]
EARLY = 30  # steps before which nothing can be said
RISEN = 0.25  # of what the loss had fallen: more is no chance of the batches
FLAT = 0.01  # of what the loss has fallen in all: less in the last third is nothing
EVALUATIONS = 3  # in a row that rise, while the loss in training falls


@dataclass(frozen=True)
class Diagnosis:
    """How a run does."""

    finding: Finding
    sentence: str


def diagnose(lines: Sequence[Mapping[str, Any]], masked: int) -> Diagnosis:
    """``lines`` of a run's metrics, of which ``masked`` patches are hidden (M) in each clip."""
    if len(lines) < EARLY:
        return Diagnosis("starting", "It has only begun: nothing can be said yet.")
    loss, nce, accuracy = (np.array([line[name] for line in lines], float) for name in ("loss", "nce", "accuracy"))
    if _diverges(loss):
        return Diagnosis(
            "diverging", "The loss rises again: it diverges. A lower learning rate or a longer warm-up would hold it."
        )
    last = max(len(lines) // 5, 10)
    guessing = math.log(masked)
    if nce[-last:].mean() > guessing - 0.03 and accuracy[-last:].mean() < 2 / masked:
        return Diagnosis(
            "at chance",
            f"It recognises no more than guessing would: InfoNCE is at {guessing:.2f} nats, the logarithm of the {masked} hidden "
            "patches. Early in a run this is usual; later, the learning rate is too low or too high.",
        )
    if _memorises(lines, loss):
        return Diagnosis(
            "memorising",
            "The held-out loss rises while that in training falls: it learns these sounds by heart. More sound helps.",
        )
    if _flat(loss):
        return Diagnosis("flat", "The loss is flat: it has learned what it will learn in this run.")
    return Diagnosis("learning", "It learns: the loss is falling.")


def _diverges(loss: np.ndarray) -> bool:
    """Whether the loss has risen again by a good part of what it had fallen, beyond the noise of single steps."""
    smooth = _smooth(loss)
    best = int(smooth.argmin())
    fallen, risen, noise = smooth[0] - smooth[best], smooth[-1] - smooth[best], _noise(loss)
    return bool(risen > max(RISEN * abs(fallen), 3 * noise))


def _flat(loss: np.ndarray) -> bool:
    third = len(loss) // 3
    middle, last = loss[-2 * third : -third].mean(), loss[-third:].mean()
    return bool(
        middle - last < max(FLAT * abs(loss[: max(third // 2, 5)].mean() - last), 2 * _noise(loss) / math.sqrt(third))
    )


def _memorises(lines: Sequence[Mapping[str, Any]], loss: np.ndarray) -> bool:
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line][-EVALUATIONS - 1 :]
    rises = len(held_out) > EVALUATIONS and all(one < other for one, other in itertools.pairwise(held_out))
    half = len(loss) // 2
    return bool(rises and loss[half:].mean() < loss[:half].mean())


def _smooth(values: np.ndarray) -> np.ndarray:
    width = max(len(values) // 10, 5)
    return np.convolve(values, np.ones(width) / width, "valid")


def _noise(values: np.ndarray) -> float:
    """Of single steps, from their differences, in which a trend hardly shows."""
    return float(np.diff(values).std() / math.sqrt(2))
