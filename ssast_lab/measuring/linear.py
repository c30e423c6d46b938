"""Linear layers on a CPU by oneDNN.

PyTorch computes them by MKL when they are in float32, and MKL uses half the width of the vector units of processors with AVX-512
that are not Intel's. oneDNN, which PyTorch has too, uses all of it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

OPERATOR = "_linear_pointwise"  # what torch.compile makes of a linear layer on a CPU


class ByOneDNN(TorchFunctionMode):
    """A context in which linear layers are computed so, where it pays and no gradients are wanted. Results are the same up to
    rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.there = torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(torch.ops.mkldnn, OPERATOR)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and self.there and not kwargs and _fits(*args):
            x, weight, bias = (*args, None)[:3]
            return getattr(torch.ops.mkldnn, OPERATOR)(x, weight, bias, "none", [], "")
        return func(*args, **(kwargs or {}))


def _fits(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    here = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in (x, weight))
    return here and x.ndim > 1 and x.numel() > 0 and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
