"""The formula that fills the weights, inputs and masks behind the figures in tests/golden (integer arithmetic only)."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden"


def hashed(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values in [-0.5, 0.5) that depend on the name alone."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))
    x &= np.uint64(0xFFFFFFFF)
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        x ^= x >> np.uint64(shift)
        x = (x * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return (x.astype(np.float64) / 2**32 - 0.5).reshape(shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    h = hashed(name, shape)
    if name.endswith(".weight") and len(shape) == 1:
        h = np.float32(1) + np.float32(0.2) * h
    elif name.endswith(".bias"):
        h = np.float32(0.1) * h
    elif name.endswith(".weight"):
        h = h * np.float32(np.sqrt(12 / np.prod(shape[1:])))
    else:
        h = np.float32(0.2) * h
    return torch.from_numpy(np.asarray(h, dtype=np.float32))


def figures(kind: str) -> dict:
    return json.loads((FOLDER / f"official_tiny_{kind}.json").read_text())


def official_state(golden: dict) -> dict[str, torch.Tensor]:
    """The official state dict, without the ``module.`` prefix."""
    sizes = {"p_input_fdim": 128, "p_input_tdim": golden["input_tdim"]}
    return {
        name: torch.tensor(sizes[name]) if name in sizes else weight(name, tuple(shape))
        for name, shape in golden["state"].items()
    }


def spectrograms(name: str, batch: int, frames: int) -> torch.Tensor:
    return torch.from_numpy(2 * hashed(name, (batch, frames, 128)))


def masks(golden: dict) -> torch.Tensor:
    mask = torch.zeros(golden["batch"], golden["num_patches"], dtype=torch.bool)
    for clip in range(golden["batch"]):
        order = np.argsort(hashed(f"mask{clip}", (golden["num_patches"],)), kind="stable")
        mask[clip, torch.from_numpy(order[: golden["mask_patches"]].copy())] = True
    return mask
