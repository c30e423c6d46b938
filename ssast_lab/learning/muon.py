"""Muon for the weight matrices of a Transformer, whose momentum it makes orthogonal; AdamW for all other parameters.

From K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024). The scale of the steps is from
J. Liu and others, "Muon is scalable for LLM training" (2025, section 2.2), so that Muon and AdamW can share one learning rate
and one weight decay. PyTorch's own ``torch.optim.Muon`` computes in bfloat16 and matrix by matrix: on a CPU that multiplies
bfloat16 slowly its step takes several times as long as the model's forward and backward together.
"""

import torch
from torch import Tensor

from ssast_lab.learning.precision import fast_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a polynomial of degree 5 that brings all singular values near 1
ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """AdamW, except that parameter groups with ``orthogonal=True`` hold matrices, (out, in), and take Muon's steps.

    ``momentum`` is Muon's; all other options are AdamW's, and learning rate and weight decay hold for both.
    """

    def __init__(self, groups: list[dict], *arguments: object, momentum: float = 0.95, **options: object) -> None:
        super().__init__(groups, *arguments, **options)  # type: ignore[arg-type]
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if group.get("orthogonal"):
                self._orthogonal(group)
        super().step()

    def _orthogonal(self, group: dict) -> None:
        """One step of a group; its gradients are then set to None, so that AdamW skips it.

        All matrices are computed together where they can be: a small model waits for the launches of its kernels."""
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        for weight in weights:
            if not self.state[weight]:  # named as AdamW's own state is
                self.state[weight]["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                self.state[weight]["exp_avg"] = torch.zeros_like(weight)
        torch._foreach_add_([self.state[weight]["step"] for weight in weights], 1)
        gradients, averages = [w.grad for w in weights], [self.state[w]["exp_avg"] for w in weights]
        torch._foreach_lerp_(averages, gradients, 1 - self.momentum)
        nesterov = torch._foreach_lerp(gradients, averages, self.momentum)
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for weight, direction in zip(weights, nesterov, strict=True):
            by_shape.setdefault(weight.shape, []).append((weight, direction))
            weight.grad = None
        dtype = torch.bfloat16 if fast_bf16(weights[0].device) else torch.float32
        for shape, pairs in by_shape.items():
            scale = 0.2 * max(shape) ** 0.5  # so that the steps have the root mean square of AdamW's
            alike, directions = map(list, zip(*pairs, strict=True))
            steps = orthogonalise(torch.stack(directions), dtype)
            torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(alike, list(steps), alpha=-group["lr"] * scale)


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(..., m, n) -> the same with all singular values near 1 (0.7 to 1.2), by five Newton-Schulz iterations in ``dtype``."""
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype)
