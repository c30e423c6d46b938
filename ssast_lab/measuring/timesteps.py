"""Time steps as benches ask for them: a module that takes waveforms and gives a sequence of embeddings.

Axes: B sounds, S samples at the model's rate, T time steps, R bands of frequency, D width.
"""

import torch
from torch import Tensor, nn

from ssast_lab.measuring.embedder import Embedder
from ssast_lab.measuring.listener import Model


class TimeSteps(nn.Module):
    """(B, S) at the model's rate, all equally long -> (B, T, R * D): the tokens of a time step, one band after another, so that what is high and
    what is low stay apart. Options are those of :class:`ssast_lab.Embedder`; windows follow each other without overlap."""

    def __init__(self, model: Model = "tiny-patch", layers: int | tuple[int, ...] = -1, device: str = "cpu") -> None:
        super().__init__()
        self.embedder = Embedder(model, layers, device=device)
        self.rate = self.embedder.rate  # Hz
        self.network = self.embedder.upstream.module  # so that .to() moves it
        self.step = self.embedder.upstream.step / self.rate  # seconds from one time step to the next
        self.width = self.forward(torch.zeros(1, self.embedder.upstream.least)).shape[-1]  # R * D

    def forward(self, waveforms: Tensor) -> Tensor:
        self.embedder.device = next(self.network.parameters()).device
        tokens, _ = self.embedder.tokens(waveforms)
        return tokens.flatten(2).float()
