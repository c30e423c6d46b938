"""What the stage is given, and what it gives back: plain data, so that the same script draws it in any page.

The browser colours the levels itself: so what is seen and what is read under the pointer is one array, and a hidden patch can be
painted before the model has answered.

Axes: S samples, T frames, F mel bins, N patches.
"""

import base64
import math
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssast_lab import analysis, audio, figures
from ssast_lab.analysis import Excerpt, Reconstruction
from ssast_lab.config import AudioConfig
from ssast_lab.model import SSAST
from ssast_lab.patches import PatchGrid

DECIBEL = 10 / math.log(10)  # of a natural logarithm of energy
SILENCE = math.log(torch.finfo(torch.float32).eps)  # log-mel of no sound
ROOM = 0.98  # of full scale for the loudest sample
PLURAL = {"patch": "patches", "frame": "frames"}


def analyse(network: SSAST, piece: Excerpt, mask: Tensor) -> Reconstruction:
    """What the model makes of an excerpt; where nothing is hidden there is nothing to make, and the figures are NaN."""
    if mask.any():
        return analysis.reconstruct(network, piece.fbank, mask, piece.start)
    sound, nowhere, nan = piece.fbank.numpy(), np.full(piece.grid.count, np.nan, np.float32), math.nan
    return Reconstruction(
        piece.grid, piece.start, sound, mask.numpy(), sound, nowhere, np.full(piece.grid.count, -1), nan, nan, nan, nan,
        network.config.audio,
    )  # fmt: skip


def stretch(record: Reconstruction) -> int:
    """A number of the stretch of sound itself: the same under any mask and any model."""
    return zlib.crc32(record.original.tobytes(), round(record.start * 1000))


def picture(record: Reconstruction, config: AudioConfig, key: str, stroke: int | None = None) -> dict[str, Any]:
    """All that is seen and read of a reconstruction. ``stroke`` is the brush's that asked for it, ``key`` the name under which
    its sounds follow."""
    grid, (floor, step) = record.grid, _scale(record, config)
    low, high = figures.colour_range(_decibels(record.original, config))
    noun = "patch" if grid.rows > 1 else "frame"
    return {
        "key": key, "stroke": stroke, "stretch": stretch(record), "noun": noun, "plural": PLURAL[noun],
        "start": record.start, "hop": grid.hop, "window": grid.window, "offset": (grid.window - grid.hop) / 2,
        "grid": {"bins": grid.mel_bins, "frames": grid.frames, "shape": grid.shape, "stride": grid.stride,
                 "rows": grid.rows, "columns": grid.columns},
        "hertz": grid.band,
        "floor": floor, "step": step, "low": low, "high": high, "most": (high - low) / 2,  # all in dB
        "original": levels(record, record.original, config), "reconstructed": levels(record, record.reconstruction, config),
        "mask": text(record.mask.astype(np.uint8)), "rank": text(record.rank.astype("<i4")),
        "mse": text(record.patch_mse.astype("<f4")),
        "colours": {"loudness": text(figures.palette(figures.LOUDNESS)), "deviation": text(figures.palette(figures.DEVIATION)),
                    "hidden": figures.HIDDEN, "right": figures.RIGHT, "wrong": figures.WRONG},
    }  # fmt: skip


def _scale(record: Reconstruction, config: AudioConfig) -> tuple[float, float]:
    """The lowest level of a record's picture, and the step from one to the next, about 0.4 dB."""
    both = _decibels(np.stack([record.original, record.reconstruction]), config)
    floor = float(both.min())
    return floor, max(float(both.max()) - floor, 1e-3) / 255


def levels(record: Reconstruction, log_mel: np.ndarray, config: AudioConfig) -> str:
    """(T, F) as a layer of a record's picture: in the steps of its levels."""
    floor, step = _scale(record, config)
    steps = np.rint((_decibels(log_mel, config) - floor) / step)
    return text(np.clip(steps, 0, 255).astype(np.uint8))


def inverted(record: Reconstruction, config: AudioConfig, ceiling: Tensor | None = None) -> Tensor:
    """(3, S): the masked log-mel, the reconstruction and the original log-mel made audible; the last is not made again where it
    is given. Hidden patches of the first are silent: so one hears all that the model was given, and nothing else."""
    fbanks = [torch.from_numpy(record.reconstruction).clone() for _ in range(2)]
    fbanks[0][torch.from_numpy(hidden_values(record))] = (SILENCE - config.mean) / (2 * config.std)
    if ceiling is None:
        return audio.invert(torch.stack([*fbanks, torch.from_numpy(record.original)]), config)
    return torch.cat([audio.invert(torch.stack(fbanks), config), ceiling[None]])


def sounds(record: Reconstruction, original: Tensor, inversions: Tensor, key: str) -> dict[str, Any]:
    """The four sounds, (S,) and (3, S), at one common gain as 16-bit samples; times ``scale`` they are what is played."""
    versions = torch.cat([original[None, : inversions.shape[1]], inversions])
    gain = ROOM / max(float(versions.abs().max()), ROOM)  # what is beyond full scale turns all of them down
    samples = (versions * gain * 32767).round().to(torch.int16).numpy()
    named = zip(("original", "masked", "reconstructed", "ceiling"), samples, strict=True)
    texts = {name: text(version) for name, version in named}
    rate = record.audio.sample_rate
    return {"key": key, "stretch": stretch(record), "rate": rate, "scale": 1 / 32767, "gain": gain} | texts


def painted_mask(hidden: Any, grid: PatchGrid) -> Tensor:
    """(N,) bool from the numbers of the patches that were painted; what is no such number is left out."""
    mask = torch.zeros(grid.count, dtype=torch.bool)
    for patch in hidden if isinstance(hidden, list) else ():
        if type(patch) is int and 0 <= patch < grid.count:
            mask[patch] = True
    return mask


def hidden_values(record: Reconstruction) -> np.ndarray:
    """(T, F) bool: True where a value is hidden."""
    grid = record.grid
    values = np.zeros((grid.frames, grid.mel_bins), bool)
    for patch in np.flatnonzero(record.mask):
        low, high, first, end = grid.bounds(int(patch))
        values[first:end, low:high] = True
    return values


def _decibels(log_mel: np.ndarray, config: AudioConfig) -> np.ndarray:
    return DECIBEL * (log_mel * (2 * config.std) + config.mean)


def text(values: np.ndarray) -> str:
    """The bytes of an array for the browser, where ``ssast.bytes`` takes them out again."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
