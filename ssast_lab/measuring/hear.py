"""The common API of HEAR 2021 (Turian et al., "HEAR: Holistic Evaluation of Audio Representations", NeurIPS 2021 Competitions)::

    hear-validator ssast_lab.measuring.hear --model tiny-patch

Axes: B sounds, S samples at the model's rate, T time steps, E values of an embedding.
"""

import math

import torch
from torch import Tensor

from ssast_lab.measuring.timesteps import TimeSteps

SPACING = 0.05  # seconds from one time stamp to the next at most, so that a note's onset can be placed


class HearModel(TimeSteps):
    """What the API asks of a model. Where time steps lie further apart than :data:`SPACING`, the sound is heard several times, each
    time from a little later on."""

    def __init__(self, model: str = "tiny-patch", layers: int | tuple[int, ...] = -1) -> None:
        super().__init__(model, layers)
        self.sample_rate = self.rate
        self.scene_embedding_size = self.timestamp_embedding_size = self.width
        self.times = math.ceil(self.step / SPACING)


def load_model(model_file_path: str = "") -> HearModel:
    """``model_file_path``: what :func:`ssast_lab.load` reads; empty: the built-in tiny-patch."""
    return HearModel(model_file_path or "tiny-patch")


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """(B, S) -> (B, T, E) float32, and (B, T) the middle of each step in milliseconds."""
    step, least = round(model.step * model.rate), model.embedder.upstream.least
    times = model.times if audio.shape[1] >= least + step else 1
    shift = step // times
    heard = [model(audio[:, shift * number :]) for number in range(times)]
    many = min(each.shape[1] for each in heard)
    embeddings = torch.stack([each[:, :many] for each in heard], 2).flatten(1, 2)
    first = (least - model.embedder.upstream.overlap) / 2
    middles = first + shift * torch.arange(embeddings.shape[1], dtype=torch.float32, device=audio.device)
    return embeddings, (1000 * middles / model.rate).expand(len(audio), -1)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """(B, S) -> (B, E) float32: the mean over the time steps."""
    return model(audio).mean(1)
