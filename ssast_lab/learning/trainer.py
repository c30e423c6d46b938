"""One process's part of an optimiser step: forward, backward, clipping, update, evaluation."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Generic

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ssast_lab import data
from ssast_lab.checkpoint import CheckpointError
from ssast_lab.config import ConfigError, RunConfig
from ssast_lab.learning.muon import Muon
from ssast_lab.learning.precision import fast_bf16
from ssast_lab.learning.run import Run
from ssast_lab.learning.schedule import LearningRate
from ssast_lab.learning.task import E, EvaluationResult, Evaluator, Forward, TrainingTask

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "muon": Muon,
}


class Trainer(Generic[E]):
    """Model, optimiser and learning rate on the device of this process; ``done`` is how many steps they have taken."""

    def __init__(self, task: TrainingTask[E], run: RunConfig, accelerator: Accelerator) -> None:
        """Raises :class:`ConfigError` where processes or micro-batches do not divide the global batch."""
        self.task, self.accelerator, self.done = task, accelerator, 0
        device, settings = accelerator.device, task.settings
        share, rest = divmod(settings.batch, accelerator.num_processes)
        if rest:
            raise ConfigError(
                f"A global batch of {settings.batch} clips cannot be shared evenly by {accelerator.num_processes} processes."
            )
        self.micro_batch = run.micro_batch or share
        if share % self.micro_batch:
            raise ConfigError(f"Micro-batches of {self.micro_batch} do not divide the {share} clips of this process.")
        first = accelerator.process_index * share
        self.rows = slice(first, first + share)  # of the global batch
        torch.manual_seed(settings.seed)
        self.model = task.build().to(device)
        self.optimizer = OPTIMIZERS[settings.optimizer](
            self._parameter_groups(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=True
        )  # fmt: skip
        self.rate = LearningRate(settings, task.steps, len(task.clips) / settings.batch, task.better)
        if run.compile:
            for block in task.blocks_to_compile(self.model):
                block.compile()
        self.distributed = accelerator.prepare_model(self.model)
        bf16 = run.precision == "bf16" or (run.precision == "auto" and fast_bf16(device))
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Biases, norms and tokens are exempt from weight decay, except with Adam, as in the official code; Muon takes the
        matrices of the blocks."""
        settings = self.task.settings
        inner = {id(p) for block in self.task.blocks_to_compile(self.model) for p in block.parameters() if p.ndim == 2}
        groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                multipliers = self.task.lr_multipliers.items()
                scale = next((multiplier for start, multiplier in multipliers if name.startswith(start)), 1.0)
                decays = settings.optimizer == "adam" or (name.endswith("weight") and parameter.ndim > 1)
                orthogonal = settings.optimizer == "muon" and id(parameter) in inner
                groups.setdefault((scale, decays, orthogonal), []).append(parameter)
        return [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay * decays,
                "scale": scale,
                "orthogonal": orthogonal,
            }
            for (scale, decays, orthogonal), parameters in sorted(
                groups.items(), key=lambda item: item[0], reverse=True
            )
        ]

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "rate": self.rate.state_dict(), "task": self.task.state()}

    def restore(self, folder: Run, step: int) -> None:
        """Goes on from a checkpoint; raises :class:`ssast_lab.learning.run.RunError` for a damaged one, or another model's."""
        weights, state = folder.read_weights(step), folder.read_training(step)
        with folder.reading(step):
            if _shapes(weights) != _shapes(self.model.state_dict()):
                raise CheckpointError("its weights are another model's")
            self.optimizer.load_state_dict(state["optimizer"])  # which looks at no shapes
            for parameter, kept in self.optimizer.state.items():
                if any(
                    torch.is_tensor(value) and value.ndim and value.shape != parameter.shape for value in kept.values()
                ):
                    raise CheckpointError("training.pt is another model's")
            self.model.load_state_dict(weights)
            self.rate.load_state_dict(state["rate"])
            self.task.restore(state.get("task", {}))
        self.done = step

    def backward(self, batch: data.Batch) -> Any:
        """This process's rows of a batch, micro-batch by micro-batch -> their mean losses, a NamedTuple of () tensors.

        Leaves the gradients of the global batch in the model."""
        drawn = [tensor[self.rows] for tensor in self.task.draw(self.done)]
        parts = len(batch.lengths) // self.micro_batch
        self.distributed.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: list[Tensor] = []
        for part in range(parts):
            rows = slice(part * self.micro_batch, (part + 1) * self.micro_batch)
            # Gradients are exchanged among processes once, with the last micro-batch.
            exchange = self.accelerator.no_sync(self.distributed) if part < parts - 1 else nullcontext()
            with exchange:
                losses = self.task.losses(
                    self._forward(self.distributed), self.model, batch.part(rows).to(self.accelerator.device),
                    [tensor[rows] for tensor in drawn],
                )  # fmt: skip
                self.accelerator.backward(losses[0] / parts)
            sums.append(torch.stack(losses).detach() / parts)
        return type(losses)(*torch.stack(sums).sum(0))

    def clip_gradients(self) -> Tensor:
        """() the norm that the gradient had before it was clipped."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if self.task.settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.task.settings.clip_norm, norm)
        return norm

    def update(self) -> float:
        """Takes the optimiser's step, and returns its learning rate."""
        learning_rate = self.rate(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.optimizer.step()
        self.done += 1
        self.task.on_step_end(self.done, self.model)
        return learning_rate

    @torch.no_grad()
    def evaluate(self, evaluator: Evaluator[E]) -> EvaluationResult[E]:
        self.model.eval()
        result = evaluator.evaluate(self._forward(self.model), self.model)
        self.rate.update_plateau(result.score)
        return result

    def weights_are_finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())

    def _forward(self, model: nn.Module) -> Forward:
        """A model's forward in the precision of the run; what is computed around it stays in float32."""

        def forward(*inputs: Tensor | None) -> Any:
            with self.autocast:
                return model(*inputs)

        return forward


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}
