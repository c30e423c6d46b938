"""Visitors' trainings: each a process of its own, which goes on while nobody looks and ends with the server, however that ends."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import soundfile
from torch import Tensor

from ssast_lab import audio, checkpoint
from ssast_lab.app.private import Private, is_name
from ssast_lab.config import model_config
from ssast_lab.learning.run import Run, RunError

KEPT = 32  # trainings, whoever's
AT_ONCE = 2  # that run
FRAMES = 256  # of a window
SHARE = 400 / 512  # of the patches are hidden
STEPS = (300, 1000, 4000)
HELD_OUT = 8  # clips, at most
PATIENCE = 20  # seconds in which a process may end by itself
CHILD = """
from ssast_lab.__main__ import main
from ssast_lab.learning.interrupts import end_with_input
end_with_input()
main()
"""
State = Literal["running", "stopped", "done", "failed"]


@cache
def _pipe() -> int:
    """The end for reading of a pipe into which nothing is written: it ends with this process, which alone has the other end."""
    reading, _ = os.pipe()
    return reading


class TrainingError(ValueError):
    """A training that cannot be: the message says why."""


@dataclass(frozen=True)
class Plan:
    """What a visitor asks for."""

    kind: str  # "patch" or "frame"
    steps: int
    source: str  # what it learns from, in words

    @property
    def grid(self) -> Any:
        return model_config(f"nano-{self.kind}", frames=FRAMES).grid

    @property
    def masked(self) -> int:
        return round(SHARE * self.grid.count)

    def command(self, folder: Path) -> list[str]:
        """The quick recipe at the length of these windows, as anyone could type it after ``ssast-lab``."""
        count, steps = self.masked, self.steps
        flags = {
            "model.frames": FRAMES, "mask.count": count, "data.train": folder / "train", "data.held-out": folder / "heldout",
            "data.held-out-clips": HELD_OUT, "training.steps": steps, "training.warmup": max(steps // 10, 10),
            "training.sampled": count // 4, "training.evaluate-every": max(steps // 20, 10), "training.evaluate-masks": count,
            "run.folder": folder / "run", "run.workers": 0, "run.checkpoint-every": max(steps // 5, 50),
        }  # fmt: skip
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        return ["pretrain", f"quick-nano-{self.kind}-400", *words]


@dataclass(eq=False)
class Training:
    """A run's folder and, while it runs, its process."""

    plan: Plan
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    asked_to_stop: bool = False
    kept: dict[int, Path] = field(default_factory=dict)  # step -> a model that was taken out of it

    @property
    def run(self) -> Run:
        return Run(self.folder / "run")

    def start(self) -> None:
        """From the beginning, or from the last checkpoint on."""
        command = [sys.executable, "-c", CHILD, *self.plan.command(self.folder)]
        if self.run.checkpoints():
            command.append("--run.resume")
        elif self.run.path.exists():
            shutil.rmtree(self.run.path)  # it was ended before anything was kept
        package = str(Path(checkpoint.__file__).parents[2])
        paths = os.pathsep.join(path for path in (package, os.environ.get("PYTHONPATH")) if path)
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=_pipe(), stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            )  # fmt: skip
        self.asked_to_stop = False

    def stop(self) -> None:
        """It ends with a checkpoint, after the step that it is at."""
        if self.running and self.process:
            self.asked_to_stop = True
            self.process.terminate()

    def end(self) -> None:
        """Stops it, waits for it, and removes what it wrote."""
        if self.process:
            self.stop()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def state(self) -> State:
        if self.running:
            return "running"
        if self.step >= self.plan.steps:
            return "done"
        code = self.process.returncode if self.process else 0
        return "stopped" if code == 0 or self.asked_to_stop else "failed"

    def lines(self) -> list[dict[str, Any]]:
        try:
            return [line for line in self.run.metrics() if math.isfinite(line["loss"])]
        except (RunError, OSError):  # in the moment in which it is begun anew
            return []

    @property
    def step(self) -> int:
        lines = self.lines()
        return lines[-1]["step"] if lines else 0

    def complaint(self) -> str:
        """The last thing that a process which failed said."""
        try:
            lines = (self.folder / "log").read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        said = next((line for line in reversed(lines) if line.strip()), "")
        return said.replace(str(self.folder), "").removeprefix("ssast-lab pretrain: ")[:500]

    def seconds_left(self) -> float | None:
        """By the pace of the last steps, evaluations included."""
        lines = self.lines()[-100:]
        if len(lines) < 5 or not self.running:
            return None
        pace = (lines[-1]["seconds"] - lines[0]["seconds"]) / (lines[-1]["step"] - lines[0]["step"])
        return max(pace, 0.0) * (self.plan.steps - lines[-1]["step"])

    def sample(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """(step, arrays of one held-out clip) of the last evaluation."""
        paths = sorted((self.run.path / "samples").glob("step-*.npz"))
        try:
            with np.load(paths[-1]) as arrays:
                return int(paths[-1].stem[5:]), {
                    name: arrays[name][0] for name in ("original", "mask", "reconstruction")
                }
        except (IndexError, OSError, ValueError, KeyError):
            return None

    def keep(self, title: str) -> tuple[int, Path]:
        """(step, folder): the best model so far, by itself."""
        try:
            steps = self.run.checkpoints()
            best = self.run.best()
            step = best["step"] if best and best["step"] in steps else max(steps)
            if step not in self.kept:
                note = f"A nano model, pretrained here for {step} steps on {self.plan.source}."
                self.kept[step] = self.run.export(self.folder / f"model-{step}", {"title": title, "note": note})
        except (ValueError, RunError, OSError, checkpoint.CheckpointError):
            raise TrainingError("No checkpoint has been written yet: wait a moment, or stop it.") from None
        return step, self.kept[step]


class Trainings:
    """All trainings of a server, each under a name that only its visitor's browser knows."""

    def __init__(self) -> None:
        self._all: Private[Training] = Private(KEPT)
        self._lock = Lock()

    def find(self, name: object) -> Training | None:
        return self._all.find(name)

    def start(self, name: object, plan: Plan, sounds: Sequence[Tensor]) -> Training:
        """A new one in the place of the visitor's earlier one; the same one where it is there already."""
        with self._lock:
            known = self._all.find(name)
            if known:
                return known
            if not is_name(name):
                raise TrainingError("A training needs a name that its visitor's browser has drawn.")
            self.check_room()
            folder = Path(tempfile.mkdtemp(prefix="training-", dir=os.environ.get("GRADIO_TEMP_DIR")))
            training = Training(plan, folder)
            try:
                write_clips(folder, sounds)
                training.start()
            except BaseException:
                training.end()
                raise
            for over in self._all.keep(name, training):
                over.end()
            return training

    def check_room(self) -> None:
        if sum(training.running for training in self._all.all()) >= AT_ONCE:
            raise TrainingError(f"{AT_ONCE} trainings are under way on this machine: wait until one is over.")

    def close(self) -> None:
        everyone = self._all.all()
        for training in everyone:  # all at once, and then each is waited for
            training.stop()
        for training in everyone:
            training.end()


def write_clips(folder: Path, sounds: Sequence[Tensor]) -> None:
    """(S,) each -> clips to train on, and every fifth window to measure on."""
    window = audio.OFFICIAL.samples_of(FRAMES)
    write = partial(soundfile.write, samplerate=audio.SAMPLE_RATE, subtype="FLOAT")  # the samples as they are
    for name in ("train", "heldout"):
        (folder / name).mkdir()
    held_out = 0
    longest = max(sounds, key=len, default=None)
    for number, sound in enumerate(sounds):
        for first in range(0, len(sound), 5 * window):
            piece = sound[first : first + 5 * window]
            cut = len(piece) - window if len(piece) >= 2 * window else len(piece)
            if (
                cut == len(piece)
                and sound is longest
                and not held_out
                and len(piece) >= 2 * audio.OFFICIAL.samples_of(32)
            ):
                cut = 2 * len(piece) // 3  # nothing is long enough: a third of the longest, then
            if cut >= audio.OFFICIAL.samples_of(16):
                write(folder / "train" / f"{number:04}-{first}.wav", piece[:cut].numpy())
            if cut < len(piece):
                held_out += 1
                write(folder / "heldout" / f"{number:04}-{first}.wav", piece[cut:].numpy())
    if not held_out:
        raise TrainingError("There is too little sound to learn from and to measure on: give at least a second of it.")
