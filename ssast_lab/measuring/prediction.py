"""What classifiers, and heads that are kept beside a model, say of sounds of any length.

Axes: B windows of a batch, W windows, S samples at the model's rate, T frames, F mel bins, D width, L labels.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssast_lab import audio, checkpoint
from ssast_lab.analysis import Head
from ssast_lab.measuring.linear import ByOneDNN
from ssast_lab.measuring.listener import Listener, Sound, Table, shares
from ssast_lab.measuring.upstreams import of_model
from ssast_lab.model import Classifier

CLASSIFIER = "labels"  # the name of the question that a fine-tuned classifier answers


class PredictionError(ValueError):
    """A model that has no labels, or not those that were asked for: the message says what to do."""


@dataclass(frozen=True)
class Prediction:
    """The probabilities of labels, for one sound."""

    labels: tuple[str, ...]  # (L,)
    clip: np.ndarray  # (L,) the mean over the windows, in which every moment counts once
    windows: np.ndarray  # (W, L)
    seconds: np.ndarray  # (W, 2) what each window has seen, from the beginning of the sound
    several: bool  # whether a sound may have several labels, or none; otherwise the probabilities of a window sum to 1

    def top(self, count: int = 5, window: int | None = None) -> list[tuple[str, float]]:
        """The most probable labels of the clip, or of a window, best first."""
        values = self.clip if window is None else self.windows[window]
        return [(self.labels[at], float(values[at])) for at in np.argsort(-values, kind="stable")[:count]]

    def above(self, threshold: float = 0.5, window: int | None = None) -> list[tuple[str, float]]:
        """The labels that are at least so probable, best first."""
        return [(label, value) for label, value in self.top(len(self.labels), window) if value >= threshold]


class Predictor(Listener):
    """A fine-tuned classifier, or a model with heads, that names the labels of sounds of any length::

        predictor = Predictor("runs/birds")
        predictor("dawn.flac")["labels"].top(3)  # [("blackbird", 0.93), ...]

    A classifier is given its windows as in its training: what is shorter is padded.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module,
        heads: Sequence[str | Head] | Mapping[str, Head] = (),
        seconds: float | None = None,
        hop: float | None = None,
        several: bool | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """``heads``: of those beside the model, by name, or any that were fitted to it; by default all that are beside it.
        ``several``: whether a sound may have several labels; None: as the classifier was trained, or, where it does not say
        that, no. ``seconds``, ``hop`` and ``device`` as in :class:`Listener`.

        :class:`PredictionError` for a model without labels.
        """
        loaded, name = (
            (model, type(model).__name__) if isinstance(model, nn.Module) else (checkpoint.load(model), str(model))
        )
        super().__init__(loaded if isinstance(model, nn.Module) else of_model(name, loaded), seconds, hop, device)
        self.classifier = loaded.to(self.device).eval() if isinstance(loaded, Classifier) else None
        self.heads: list[Head] = []
        if self.classifier is None:
            self.heads = _heads(model, name, heads)
            labels = {head.name: head.labels for head in self.heads}
        elif heads:
            raise PredictionError(f"{name} is a classifier and answers by its own labels: it has no heads.")
        else:
            labels = {CLASSIFIER: self.classifier.config.labels}
        self.labels: dict[str, tuple[str, ...]] = labels
        self.several = _several(model) if several is None else several

    def __call__(self, sound: Sound, rate: int | None = None) -> dict[str, Prediction]:
        """Name of the head, or "labels" for a classifier -> what it says. An array comes with its ``rate`` in Hz."""
        rows = [*self.stream(sound, rate)]
        return self._predictions(np.array([row[:2] for row in rows]), np.stack([row.values for row in rows]))

    def of(self, table: Table, number: int) -> dict[str, Prediction]:
        """What :meth:`many` found of one of its sounds, which was not left out."""
        rows = table.sound == number
        return self._predictions(table.seconds[rows], table.values[rows])

    def _predictions(self, seconds: np.ndarray, values: np.ndarray) -> dict[str, Prediction]:
        parts = np.split(values, np.cumsum([len(labels) for labels in self.labels.values()])[:-1], axis=1)
        share = shares(seconds)
        return {
            name: Prediction(labels, share @ part, part, seconds, self.several)
            for (name, labels), part in zip(self.labels.items(), parts, strict=True)
        }

    def prepared(self, piece: Tensor) -> tuple[float, Tensor]:
        """(S,) -> the seconds of it that are seen, and what is batched: of a classifier (T, F) features, all of equal length."""
        if self.classifier is None:
            return super().prepared(piece)
        config = self.classifier.config
        seconds = min(config.audio.frames_of(len(piece)), config.frames) * config.grid.hop
        return seconds, audio.log_mel(piece, config.audio, frames=config.frames)

    @torch.inference_mode()
    def rows(self, batch: Tensor) -> np.ndarray:
        """(B, L) of all questions, one after the other."""
        batch = batch.to(self.device)
        if self.classifier is not None:
            with ByOneDNN():
                logits = self.classifier(batch).float()
            return (logits.sigmoid() if self.several else logits.softmax(-1)).cpu().numpy()
        asked = sorted({head.layer for head in self.heads})
        means = {
            layer: self.upstream.pool(tokens, "mean").float().cpu()
            for layer, tokens in self.upstream.by_layer(batch, asked)
        }
        return torch.cat([head(means[head.layer]) for head in self.heads], 1).numpy()


def _heads(model: Any, name: str, heads: Sequence[str | Head] | Mapping[str, Head]) -> list[Head]:
    given = [*heads.values()] if isinstance(heads, Mapping) else [*heads]
    beside = {} if isinstance(model, nn.Module) else checkpoint.heads(model)
    if not given and not beside:
        raise PredictionError(
            f"{name} has no labels: train a classifier on it (ssast-lab finetune), or fit a head to it "
            "(ssast-lab probe MODEL TASK --heads MODEL/heads)."
        )
    unknown = [head for head in given if isinstance(head, str) and head not in beside]
    if unknown:
        raise PredictionError(f"{name} has no head {unknown[0]!r}: it has {', '.join(beside) or 'none'}.")
    return [beside[head] if isinstance(head, str) else head for head in given] or [*beside.values()]


def _several(model: Any) -> bool:
    """Whether a classifier was trained to give a sound several labels, as far as its checkpoint says."""
    if isinstance(model, nn.Module):
        return False
    try:
        told = checkpoint.describe(model)
    except checkpoint.CheckpointError:  # an official file, which says nothing
        return False
    about = told["about"]
    loss = about.get("loss") or about.get("recipe", {}).get("training", {}).get("loss")
    return loss == "bce" or told["model"].get("problem_type") == "multi_label_classification"


def predict(
    model: str | os.PathLike[str] | nn.Module, sound: Sound, rate: int | None = None, **options: Any
) -> dict[str, Prediction]:
    """What a fine-tuned classifier (under the name "labels") or the heads of a model say of one sound, as a whole and window by window.

    ``sound`` is a path, or an array with its ``rate`` in Hz, the model's if none is given. ``options``
    are those of :class:`Predictor`, which answers for many sounds without loading the model anew.
    """
    predictor = Predictor(model, **options)
    if rate is None and isinstance(sound, np.ndarray | Tensor):
        rate = predictor.rate
    return predictor(sound, rate)
