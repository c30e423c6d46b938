"""What a run writes as it goes on, and what ends it early: unreadable clips, losses that are not finite, a folder that cannot
be written, a request to stop.

In every step each process learns what happened to the others. All end in the same step, so that none waits for ever.
"""

import atexit
import math
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from ssast_lab import data
from ssast_lab.config import RunConfig, to_dict
from ssast_lab.learning.run import Run, RunError
from ssast_lab.learning.task import EvaluationResult, StepResult
from ssast_lab.learning.trainer import Trainer


class Safeguards:
    """``with Safeguards(...)`` around the loop saves the last steps when the loop ends or its consumer stops asking for steps,
    but not after an error."""

    def __init__(
        self,
        trainer: Trainer[Any],
        folder: Run,
        run: RunConfig,
        total_clips: int,
        unreadable: dict[str, str],
        noticed: dict[str, str],
    ) -> None:
        """``unreadable`` and ``noticed`` (name -> why) were met before the first step, among ``total_clips`` of training and
        evaluation."""
        self.trainer, self.folder, self.run, self.total_clips = trainer, folder, run, total_clips
        self.saved = trainer.done  # the step of the last checkpoint
        self.stop = False  # whether the run ends with the present step
        self.listed = folder.unreadable()
        self.unlisted = {name: why for name, why in unreadable.items() if name not in self.listed}
        self.noted = folder.noticed()
        self.unnoted = {name: what for name, what in noticed.items() if name not in self.noted}
        self.batch_names: list[str] = []
        self.write_error: RunError | None = None

    def __enter__(self) -> "Safeguards":
        # a run that is still held at the exit would be ended when nothing can be written any more
        atexit.register(self._save_last_steps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        atexit.unregister(self._save_last_steps)
        if kind is None or kind is GeneratorExit:
            self._save_last_steps()

    def check(self, batch: data.Batch, losses: Any, gradient_norm: Tensor, stop_requested: bool) -> tuple[Any, float]:
        """This process's mean losses and the gradient's norm -> those of the global batch, as floats. Sets ``stop``.

        Raises :class:`RunError` where too many clips are unreadable or a figure is not finite."""
        self.batch_names = batch.names
        self.unlisted |= {name: why for name, why in batch.unreadable.items() if name not in self.listed}
        self.unnoted |= {name: what for name, what in (batch.noticed or {}).items() if name not in self.noted}
        ends = bool(stop_requested or self.write_error)
        # Everything in one tensor: each exchange among processes, and each look at a GPU's figures, costs time.
        step_stats = torch.stack(
            (*losses, gradient_norm, *gradient_norm.new_tensor((len(self.unlisted) + len(self.unnoted), ends)))
        )
        *means, norm, unlisted, stop = self.trainer.accelerator.reduce(step_stats, "mean").tolist()
        self.stop = bool(stop)
        if unlisted:
            self._list()
        if len(self.listed) > self.run.unreadable * self.total_clips:
            self._save_last_steps()
            raise RunError(
                f"{len(self.listed)} of {self.total_clips} clips cannot be read, more than the share of "
                f"{self.run.unreadable:g} that is allowed: they are listed in {self.folder.path / 'unreadable.tsv'}; "
                "take them out or mend them, or allow more (--run.unreadable of ssast-lab pretrain), and go on by --run.resume."
            )
        if not math.isfinite(means[0] + norm):
            culprits = [] if torch.stack(losses).isfinite().all() else batch.names
            names = gather_object(culprits) or gather_object(batch.names)
            values = ", ".join(f"{name} {value:g}" for name, value in zip(losses._fields, means, strict=True))
            raise RunError(
                f"The loss or its gradient is no finite number at step {self.trainer.done + 1} ({values}); "
                f"{self._last_checkpoint()}. The clips of that step: {', '.join(names)}."
            )
        return type(losses)(*means), norm

    def take(self, noticed: dict[str, str]) -> None:
        """Lists what was noticed (name -> what) while all processes evaluated."""
        self.unnoted |= {name: what for name, what in noticed.items() if name not in self.noted}
        self._list()

    def log(self, result: StepResult[Any]) -> None:
        self._write(self._log, result)

    def save(self, held_out: EvaluationResult[Any] | None = None) -> None:
        """Writes a checkpoint; raises :class:`RunError` where the weights are not finite."""
        trainer = self.trainer
        if not trainer.weights_are_finite():
            raise RunError(
                f"The weights are no finite numbers after step {trainer.done}; {self._last_checkpoint()}. "
                f"The clips of that step: {', '.join(gather_object(self.batch_names))}."
            )
        about = {"recipe": to_dict(trainer.task.config), "steps": trainer.done, **trainer.task.told}
        loss, figure = (held_out.loss, held_out.figure) if held_out else (None, None)
        self._write(self.folder.save, trainer.done, trainer.model, trainer.state(), about, loss, figure)
        self.saved = trainer.done

    def _save_last_steps(self) -> None:
        if self.trainer.done > self.saved:
            self.save()

    def _list(self) -> None:
        unreadable: dict[str, str] = {}
        noticed: dict[str, str] = {}
        for mine in gather_object([(self.unlisted, self.unnoted)]):
            unreadable |= mine[0]
            noticed |= mine[1]
        self._write(self.folder.note, unreadable, noticed)
        self.listed |= unreadable
        self.noted |= noticed
        self.unlisted, self.unnoted = {}, {}

    def _write(self, act: Callable[..., None], *arguments: Any) -> None:
        """In the main process only. Where it fails while other processes go on, all end after the next step."""
        if self.trainer.accelerator.is_main_process and not self.write_error:
            try:
                act(*arguments)
            except RunError as error:
                if self.trainer.accelerator.num_processes == 1:
                    raise
                self.write_error = error

    def _last_checkpoint(self) -> str:
        return f"the checkpoint of step {self.saved} is intact" if self.saved else "there was no checkpoint yet"

    def _log(self, result: StepResult[Any]) -> None:
        first, *others = result.losses._asdict().items()
        line = {
            "step": result.step, "epoch": result.epoch, "loss": first[1], **dict(others),
            "gradient_norm": result.gradient_norm, "learning_rate": result.learning_rate,
            "clips_per_second": result.clips_per_second, "seconds": result.seconds,
        }  # fmt: skip
        held_out = asdict(result.evaluation) if result.evaluation else {}
        self.folder.log(line | {f"held_out_{name}": value for name, value in held_out.items()})
        if result.reconstructions:
            names = ("original", "mask", "reconstruction")
            arrays = {name: np.stack([getattr(each, name) for each in result.reconstructions]) for name in names}
            self.folder.keep_sample(result.step, arrays)
        if self.run.track:
            self.trainer.accelerator.log({name: line[name] for name in line if name != "step"}, step=result.step)
