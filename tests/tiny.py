"""A corpus and a configuration so small that a pretraining step takes milliseconds, and what tests ask of its runs."""

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from ssast_lab import checkpoint
from ssast_lab.config import (
    DataConfig,
    FineTuneConfig,
    MaskConfig,
    ModelConfig,
    PretrainConfig,
    RunConfig,
    TrainingConfig,
)
from ssast_lab.learning.pretrain import Evaluation, pretrain
from ssast_lab.learning.run import Run
from ssast_lab.learning.task import StepResult

RATE = 16000
PATIENCE = 600  # seconds after which a test no longer waits for another process: it measures no speed
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


def plateau(*train: Path, **changes) -> PretrainConfig:
    """A recipe whose learning rate depends on the evaluations so far."""
    return tiny(*train, **dict(schedule="plateau", patience=0, evaluate_every=3) | changes)


def train(*arguments, **options) -> list[StepResult[Evaluation]]:
    return [*pretrain(*arguments, **options)]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints" / f"step-{step:08d}").state_dict()


def lines(folder: Path) -> list[dict]:
    """What a run has logged, without what depends on the machine's speed."""
    timing = ("clips_per_second", "seconds")
    return [{name: value for name, value in line.items() if name not in timing} for line in Run(folder).metrics()]


def assert_same_run(one: Path, other: Path, step: int) -> None:
    """Bit for bit: all logged figures, the final weights and the state of the optimiser."""
    assert lines(one) == lines(other)
    assert [line["step"] for line in lines(one)] == [*range(1, step + 1)]
    a, b = weights(one, step), weights(other, step)
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = Run(one).read_training(step), Run(other).read_training(step)
    assert a["rate"] == b["rate"]
    for key, state in a["optimizer"]["state"].items():
        assert all(torch.equal(value, b["optimizer"]["state"][key][name]) for name, value in state.items())
    assert Run(one).best() == Run(other).best()
    assert Run(one).unreadable() == Run(other).unreadable()


def command(config: PretrainConfig | FineTuneConfig, run: RunConfig) -> list[str]:
    """The command line that asks for this run."""
    asked = ["pretrain", "modern-nano-patch-400"] if isinstance(config, PretrainConfig) else ["finetune", "small-patch"]
    return [sys.executable, "-m", "ssast_lab", *asked, *_flags(config, ""), *_flags(run, "run.")]


def launch(processes: int, config: PretrainConfig, run: RunConfig) -> subprocess.Popen:
    """So many processes that share a run."""
    python, *rest = command(config, run)
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *rest]
    # Warnings of torchrun's own are not ours to turn into errors.
    return subprocess.Popen(torchrun, env=ALONE | {"PYTHONWARNINGS": "default"}, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def _flags(config, before: str) -> list[str]:
    flags = []
    for item in fields(config):
        value, name = getattr(config, item.name), before + item.name
        if is_dataclass(value):
            flags += _flags(value, f"{name}.")
        elif item.type is bool:
            flags += [f"--{name if value else before + 'no-' + item.name}"]
        elif name == "training.sampled":  # which the recipe sets
            flags += [f"--{name}", str(value)]
        elif value not in ((), "", None):
            flags += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return flags
