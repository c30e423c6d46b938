"""Reconstruction: what the model drew, beside what can be drawn without a model."""

from functools import lru_cache

import numpy as np
import torch

from ssast_lab import analysis, audio
from ssast_lab.analysis import Rival
from ssast_lab.app.stage import levels, text
from ssast_lab.app.state import Seen
from ssast_lab.app.views.view import Answer, Asked, Refusal, View

WORDS = {
    "bin mean": ("Bin mean", "every hidden value as the mean of what is visible in its mel bin"),
    "linear inpainting": ("Inpainting", "every hidden value as the mean of its four neighbours"),
    "linear in time": ("Linear", "hidden frames interpolated between the visible ones before and after"),
}


@lru_cache(maxsize=8)
def rivals(seen: Seen) -> tuple[Rival, ...]:
    return analysis.rivals(seen.record)


def look(seen: Seen, asked: Asked) -> Answer:
    """What each rival draws, and the MSE of every patch."""
    if not seen.record.hidden:
        raise Refusal("Nothing is hidden, so there is nothing to draw: hide some patches.")
    drawn = [
        {
            "name": rival.name, "words": WORDS[rival.name], "mse": rival.mse, "patch_mse": text(rival.patch_mse.astype("<f4")),
            "levels": levels(seen.record, rival.drawn, seen.config),
        }
        for rival in rivals(seen)
    ]  # fmt: skip
    return {"mse": seen.record.mse, "patch_mse": text(seen.record.patch_mse.astype("<f4")), "rivals": drawn}


def later(seen: Seen, asked: Asked) -> Answer:
    """The rivals made audible: 16-bit samples, and what they are to be multiplied with."""
    if not seen.record.hidden:
        return {}
    waves = audio.invert(torch.from_numpy(np.stack([rival.drawn for rival in rivals(seen)])), seen.config)
    return {rival.name: sixteen_bits(wave) for rival, wave in zip(rivals(seen), waves.numpy(), strict=True)}


def sixteen_bits(wave: np.ndarray) -> Answer:
    scale = max(float(np.abs(wave).max()), 1e-9) / 32767
    return {"samples": text(np.rint(wave / scale).astype("<i2")), "scale": scale}


VIEW = View(
    name="rivals",
    title="Reconstruction",
    hint="What does the model add to what needs none? Choose one to see and hear it; in the maps, teal is where the model is better.",
    look=look,
    later=later,
)
