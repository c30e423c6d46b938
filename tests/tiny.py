"""A corpus and a configuration so small that a pretraining step takes milliseconds."""

import os
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from ssast_lab.config import (
    DataConfig,
    FineTuneConfig,
    MaskConfig,
    ModelConfig,
    PretrainConfig,
    RunConfig,
    TrainingConfig,
)

RATE = 16000
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "TERM": "dumb"}  # of a process that is started


def write_clips(folder: Path, count: int, seconds: tuple[float, float] = (0.3, 1.5)) -> list[Path]:
    """16-bit FLAC files of gliding tones, of many lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(count)
    paths = [folder / f"{index:03}.flac" for index in range(count)]
    for index, path in enumerate(paths):
        t = np.arange(round(random.uniform(*seconds) * RATE)) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (150 + 70 * index) * t + 8 * np.sin(5 * t)) * np.sin(3 * t + index)
        soundfile.write(path, tone + 0.003 * random.standard_normal(len(t)), RATE, subtype="PCM_16")
    return paths


def tiny(*train: Path, model: dict | None = None, data: dict | None = None, **training) -> PretrainConfig:
    """Windows of 64 frames, 12 of whose 32 patches are hidden."""
    settings = dict(steps=12, batch=4, learning_rate=2e-3, warmup=4, evaluate_every=5, evaluate_masks=12)
    return PretrainConfig(
        ModelConfig(**dict(width=32, depth=2, heads=2, frames=64) | (model or {})),
        MaskConfig(12, (2, 3)),
        DataConfig(**dict(train=train, held_out_clips=3) | (data or {})),
        TrainingConfig(**settings | training),
    )


def here(folder: Path, **changes) -> RunConfig:
    run = RunConfig(str(folder), precision="fp32", workers=0, in_memory=False, checkpoint_every=4, unreadable=0.2)
    return replace(run, **changes)


def command(config: PretrainConfig | FineTuneConfig, run: RunConfig) -> list[str]:
    """The command line that asks for this run."""
    asked = ["pretrain", "modern-nano-patch-400"] if isinstance(config, PretrainConfig) else ["finetune", "small-patch"]
    return [sys.executable, "-m", "ssast_lab", *asked, *_flags(config, ""), *_flags(run, "run.")]


def _flags(config, before: str) -> list[str]:
    flags = []
    for item in fields(config):
        value, name = getattr(config, item.name), before + item.name
        if is_dataclass(value):
            flags += _flags(value, f"{name}.")
        elif item.type is bool:
            flags += [f"--{name if value else before + 'no-' + item.name}"]
        elif value not in ((), "", None):
            flags += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return flags
