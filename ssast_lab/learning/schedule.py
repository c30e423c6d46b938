"""The learning rate of each step."""

import math
from typing import Literal

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ssast_lab.config import LearningConfig


class LearningRate:
    """A linear warm-up, then the configured schedule: "cosine" falls to zero; "wsd" stays constant and falls to zero in a
    straight line at the end (Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
    NeurIPS 2024); "plateau" is halved when evaluations stop improving; "decay" is multiplied after some epochs."""

    def __init__(
        self,
        settings: LearningConfig,
        steps: int,
        steps_per_epoch: float = math.inf,
        better: Literal["min", "max"] = "min",
    ) -> None:
        """``steps`` in all; ``better`` says whether a lower or a higher score of an evaluation is the better one."""
        self.settings, self.steps, self.steps_per_epoch, self.better = settings, steps, steps_per_epoch, better
        # PyTorch's scheduler changes the learning rate of an optimiser: that of this one is the factor of ours.
        self._factor = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        self._plateau = ReduceLROnPlateau(self._factor, better, factor=0.5, patience=settings.patience, eps=0)

    def __call__(self, step: int) -> float:
        """The learning rate of the step that comes after ``step`` steps."""
        s = self.settings
        if step < s.warmup:
            return s.learning_rate * (step // s.warmup_every * s.warmup_every) / s.warmup
        if s.schedule == "plateau":
            return s.learning_rate * self._factor.param_groups[0]["lr"]
        if s.schedule == "wsd":
            return s.learning_rate * min(1.0, (self.steps - step) / max(s.cooldown * self.steps, 1))
        if s.schedule == "decay":
            epochs = int(step / self.steps_per_epoch) - s.decay_from  # since the first milestone
            return s.learning_rate * s.decay ** (epochs // s.decay_every + 1 if epochs >= 0 else 0)
        return s.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - s.warmup) / max(self.steps - s.warmup, 1)))

    def update_plateau(self, score: float) -> None:
        """Takes note of an evaluation; has an effect on the schedule "plateau" only."""
        self._plateau.step(score)

    def state_dict(self) -> dict[str, float]:
        """``best`` is written so that lower is better, whichever is."""
        best = self._plateau.best if self.better == "min" else -self._plateau.best
        return {"best": best, "waited": self._plateau.num_bad_epochs, "factor": self._factor.param_groups[0]["lr"]}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._plateau.best = state["best"] if self.better == "min" else -state["best"]
        self._plateau.num_bad_epochs = int(state["waited"])
        self._factor.param_groups[0]["lr"] = state["factor"]
