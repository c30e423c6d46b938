"""An encoder for X-ARES, the eXtensive Audio Representation and Evaluation Suite (github.com/jimbozhang/xares)::

    python -m xares.run ssast_lab/measuring/xares.py src/tasks/*.py

X-ARES takes the one class of a file whose name ends in "Encoder", and makes it without arguments.
"""

import torch
from torch import Tensor

from ssast_lab.measuring.timesteps import TimeSteps


class SsastEncoder(TimeSteps):
    """(B, S) or (S,) at the model's rate -> (B, T, D). For another model write a class of your own that inherits::

    from ssast_lab.measuring import xares

    class BirdsEncoder(xares.SsastEncoder):
        def __init__(self):
            super().__init__("runs/birds", layers=(9, 10))
    """

    def __init__(self, model: str = "tiny-patch", layers: int | tuple[int, ...] = -1) -> None:
        super().__init__(model, layers)
        self.sampling_rate = self.rate
        self.output_dim = self.width
        self.hop_size_in_ms = 1000 * self.step

    def forward(self, audio: Tensor) -> Tensor:
        with torch.inference_mode():
            return super().forward(torch.atleast_2d(audio))
