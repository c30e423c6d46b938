"""Reconstruction: what the model drew, beside what can be drawn without a model."""

from functools import lru_cache

import numpy as np
import torch

from ssast_lab import analysis, audio
from ssast_lab.analysis import Baseline
from ssast_lab.app.state import Seen
from ssast_lab.app.views.view import Answer, Asked, Refusal, View
from ssast_lab.stage import levels, text

WORDS = {
    "bin mean": ("Bin mean", "every hidden value as the mean of what is visible in its mel bin", "the bin mean"),
    "linear inpainting": ("Inpainting", "every hidden value as the mean of its four neighbours", "inpainting"),
    "linear in time": ("Linear", "hidden frames between the visible ones before and after", "interpolation in time"),
}


@lru_cache(maxsize=8)
def baselines(seen: Seen) -> tuple[Baseline, ...]:
    return analysis.baselines(seen.record)


def look(seen: Seen, asked: Asked) -> Answer:
    """What each baseline draws, and the MSE of every patch."""
    if not seen.record.hidden:
        raise Refusal("Nothing is hidden, so there is nothing to draw: hide some patches.")
    drawn = [
        {
            "name": baseline.name, "words": WORDS[baseline.name][:2], "called": WORDS[baseline.name][2], "mse": baseline.mse, "patch_mse": text(baseline.patch_mse.astype("<f4")),
            "levels": levels(seen.record, baseline.drawn, seen.config),
        }
        for baseline in baselines(seen)
    ]  # fmt: skip
    return {"mse": seen.record.mse, "patch_mse": text(seen.record.patch_mse.astype("<f4")), "baselines": drawn}


def later(seen: Seen, asked: Asked) -> Answer:
    """The baselines made audible: 16-bit samples, and what they are to be multiplied with."""
    if not seen.record.hidden:
        return {}
    waves = audio.invert(torch.from_numpy(np.stack([baseline.drawn for baseline in baselines(seen)])), seen.config)
    return {baseline.name: sixteen_bits(wave) for baseline, wave in zip(baselines(seen), waves.numpy(), strict=True)}


def sixteen_bits(wave: np.ndarray) -> Answer:
    scale = max(float(np.abs(wave).max()), 1e-9) / 32767
    return {"samples": text(np.rint(wave / scale).astype("<i2")), "scale": scale}


CODE = """
for baseline in analysis.baselines(record):
    print(f"MSE {baseline.mse:.3f} of the {baseline.name}, which needs no model")
sound = audio.invert(torch.from_numpy(record.reconstruction)[None], model.config.audio)[0]  # (S,): what was drawn, audible
"""

VIEW = View(
    name="reconstruction",
    title="Reconstruction",
    hint="What does the model add to what needs none? Choose one to see and hear it; in the maps, teal is where the model is better.",
    look=look,
    later=later,
    code=CODE,
)
