"""What is asked for most, in one line each: by the names of models and files."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.analysis import Attention, Excerpt, Match, Reconstruction
from ssast_lab.config import MaskConfig
from ssast_lab.model import SSAST

Model = Any  # a model, or what :func:`ssast_lab.load` reads
Sound = str | os.PathLike[str] | np.ndarray | Tensor  # a file, (S,) at the model's rate, or (T, F) normalised log-mel
Mask = Tensor | MaskConfig | float  # (N,) bool, True = hidden; how many patches; or a share of them
PAPER = 400 / 512


def reconstruct(model: Model, sound: Sound, mask: Mask = PAPER, start: float = 0.0, seed: int = 0) -> Reconstruction:
    """``reconstruct("tiny-patch", "bird.flac")``: hides a part of what a model sees of a sound from ``start`` seconds on, and lets it
    draw and recognise that. A share or number of patches is drawn by the seed, in the way that the paper hides them."""
    model, fbank, mask = _prepared(model, sound, mask, start, seed)
    return analysis.reconstruct(model, fbank, mask, start)


def match(model: Model, sound: Sound, mask: Mask = PAPER, start: float = 0.0, seed: int = 0) -> Match:
    """``match("tiny-patch", "bird.flac")``: what each hidden patch is taken for."""
    return analysis.match(*_prepared(model, sound, mask, start, seed))


def attend(model: Model, sound: Sound, mask: Tensor | None = None, start: float = 0.0) -> Attention:
    """``attend("tiny-patch", "bird.flac")``: what attends to what, in every head of every layer."""
    model = _loaded(model)
    return analysis.attend(model, _excerpt(model, sound, start).fbank, mask, start)


def invert(record: Reconstruction) -> Tensor:
    """(S,) at the model's rate: what a reconstruction sounds like."""
    return audio.invert(torch.from_numpy(record.reconstruction), record.audio)


def _loaded(model: Model) -> Any:
    return checkpoint.load(model) if isinstance(model, str | os.PathLike) else model


def _excerpt(model: SSAST, sound: Sound, start: float) -> Excerpt:
    if isinstance(sound, np.ndarray | Tensor):
        values = torch.as_tensor(sound)
        if values.ndim == 2 and values.shape[1] == model.config.audio.mel_bins:
            grid = model.encoder.grid_of(values)
            return Excerpt(start, values, grid)
        if values.ndim != 1:
            raise audio.AudioError(
                f"An array of the shape {tuple(values.shape)} is neither a waveform (S,) nor log-mel (T, {model.config.audio.mel_bins}): "
                "load_waveform(array, rate=48000) makes a waveform of several channels."
            )
        return analysis.excerpt(values.float(), model.config, start)
    features = model.config.audio
    window = features.seconds_of(model.config.frames)
    excerpt = analysis.excerpt(audio.load_waveform(sound, start, window, to_rate=features.sample_rate), model.config)
    return Excerpt(start, excerpt.fbank, excerpt.grid)


def _prepared(model: Model, sound: Sound, mask: Mask, start: float, seed: int) -> tuple[SSAST, Tensor, Tensor]:
    model = _loaded(model)
    excerpt = _excerpt(model, sound, start)
    return model, excerpt.fbank, mask if isinstance(mask, Tensor) else analysis.draw_mask(excerpt, mask, seed)
