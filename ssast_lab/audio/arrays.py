"""Sound that is in memory already: an array of samples with its rate, told apart by its shape.

Axes: N samples at the array's rate, K channels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ssast_lab.audio.blocks import BLOCK, Sound
from ssast_lab.audio.errors import AudioError

MOST_CHANNELS = 64  # of an array; along the other axis there must be more samples than this
FULL_SCALE = {"uint8": 128.0, "int8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31}  # as sound files have them


def of_array(array: Any, rate: int | None) -> Sound:
    """(N,), (K, N) or (N, K) samples: floats where 1 is full scale, or whole numbers of 8, 16 or 32 bits as in sound files."""
    name = "An array" if isinstance(array, np.ndarray) else "A tensor"
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() and array.element_size() == 2 else array).numpy()
    if rate is None:
        raise AudioError(f"{name} does not say how fast it was sampled: give it, as in rate=48000.")
    if isinstance(rate, bool) or int(rate) != rate or not 1000 <= rate <= 1_000_000:
        raise AudioError(f"The rate of an array is a whole number of Hz from 1000 to 1000000, not {rate!r}.")
    kind, bits = str(array.dtype), 8 * array.dtype.itemsize
    if kind not in FULL_SCALE and not np.issubdtype(array.dtype, np.floating):
        raise AudioError(
            f"{name} of {kind} is no sound: samples are floats where 1 is full scale, or whole numbers of 8, 16 or 32 bits."
        )
    samples = _channels_last(array, name)

    def blocks(sound: Sound, first: int, last: int | None) -> Iterator[np.ndarray]:
        for start in range(first, len(samples) if last is None else min(last, len(samples)), BLOCK):
            end = min(start + BLOCK, len(samples) if last is None else last)
            part = samples[start:end].astype(np.float32)
            if kind in FULL_SCALE:
                part = (part - 128.0 if kind == "uint8" else part) / np.float32(FULL_SCALE[kind])
            yield part
        sound.length = len(samples)

    name = f"{name.split()[1]}, {kind}"
    return Sound(int(rate), samples.shape[1], name, None, 0.0, len(samples), blocks, bits=bits)


def _channels_last(array: np.ndarray, name: str) -> np.ndarray:
    """(N, K): which axis has the channels is told by the numbers of them."""
    if array.ndim == 1:
        return array[:, None]
    shape = tuple(array.shape)
    if array.ndim != 2:
        raise AudioError(f"{name} of the shape {shape} is no sound: it would be (N,), (channels, N) or (N, channels).")
    few, many = sorted(shape)
    if not 0 < few <= MOST_CHANNELS < many:
        raise AudioError(
            f"{name} of the shape {shape} does not show which axis has the channels: there are 1 to {MOST_CHANNELS} of them, and more "
            "samples; choose one channel yourself."
        )
    return array.T if shape[0] == few else array
