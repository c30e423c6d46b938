"""What a model does to one sound, as frozen records of numpy arrays: pure computation, nothing is drawn here.

Axes: T frames, F mel bins, N patches, M hidden patches.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssast_lab import audio, masking, objectives
from ssast_lab.config import MaskConfig, ModelConfig
from ssast_lab.model import SSAST
from ssast_lab.patches import PatchGrid, unpatchify


@dataclass(frozen=True)
class Excerpt:
    """The stretch of a sound that a model looks at: cut from a longer one, or padded at the end from a shorter one."""

    start: float  # seconds into the sound
    fbank: Tensor  # (T, F) normalised log-mel, padding included
    frames: int  # the first so many of the T frames are sound
    grid: PatchGrid

    @property
    def maskable(self) -> Tensor:
        """(N,) bool: the patches that hold nothing but sound; no other may be hidden, since padding is no riddle."""
        return self.grid.covered(self.frames)


def excerpt(waveform: Tensor, config: ModelConfig, start: float = 0.0) -> Excerpt:
    """(S,) at 16 kHz -> what a model of this configuration sees of it from ``start`` seconds on."""
    needed = audio.WINDOW + (config.frames - 1) * audio.HOP
    first = round(start * audio.SAMPLE_RATE)
    cut = waveform[first : first + needed]
    grid = config.grid
    frames = min(audio.frames_of(len(cut)), config.frames)
    if not bool(grid.covered(frames).any()):
        least = (audio.WINDOW + (grid.shape[1] - 1) * audio.HOP) / audio.SAMPLE_RATE
        raise audio.AudioError(
            f"From {start:g} s on, only {len(cut) / audio.SAMPLE_RATE:.3f} s of sound are left, "
            f"but one patch of this model spans {least:.3f} s: choose an earlier window or a longer sound."
        )
    return Excerpt(start, audio.log_mel(cut, config.audio, frames=config.frames), frames, grid)


def draw_mask(piece: Excerpt, mask: MaskConfig, seed: int = 0) -> Tensor:
    """(N,) bool: hides ``mask.count`` patches of the sound itself, never of its padding."""
    generator = torch.Generator().manual_seed(seed)
    if mask.cluster is None:
        return masking.random_mask(piece.grid, mask.count, generator=generator, maskable=piece.maskable)
    return masking.cluster_mask(
        piece.grid, mask.count, generator=generator, cluster=mask.cluster, maskable=piece.maskable
    )


@dataclass(frozen=True)
class Reconstruction:
    """A spectrogram, what was hidden of it, what the model drew there, and which hidden patches it recognised."""

    grid: PatchGrid
    start: float  # seconds into the sound
    frames: int  # the first so many frames are sound, the rest is padding
    original: np.ndarray  # (T, F) normalised log-mel
    mask: np.ndarray  # (N,) bool, True = hidden
    reconstruction: np.ndarray  # (T, F) the visible patches as they are, the hidden ones as the model drew them
    patch_mse: np.ndarray  # (N,) of each hidden patch; NaN where it was visible
    rank: np.ndarray  # (N,) place of the true patch among the hidden ones, 0 = recognised; -1 where it was visible
    mse: float  # mean over the hidden patches
    baseline: float  # the MSE of drawing every hidden value as the visible mean of its mel bin, which needs no model
    nce: float  # nats
    accuracy: float  # share of the hidden patches that were recognised

    @property
    def hidden(self) -> int:
        """M"""
        return int(self.mask.sum())

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / self.hidden

    @property
    def error(self) -> np.ndarray:
        """(T, F) reconstruction minus original, 0 where the patch was visible."""
        return self.reconstruction - self.original


@torch.no_grad()
def reconstruct(
    model: SSAST, fbank: Tensor, mask: Tensor, start: float = 0.0, frames: int | None = None
) -> Reconstruction:
    """Hides the patches of (T, F) log-mel where (N,) ``mask`` is True and lets the model draw and recognise them."""
    device = model.mask_token.device
    batch, hidden = fbank[None].to(device), mask[None].to(device)
    guess, targets = model(batch, hidden), model.targets(batch, hidden)
    scores = objectives.similarity(guess.contrastive, targets)
    losses = objectives.per_clip(guess, targets)

    patches = torch.zeros(model.grid.count, model.grid.values)
    patches[mask] = guess.reconstruction[0].float().cpu()
    drawn = unpatchify(patches, model.grid)
    where = unpatchify(mask[:, None].expand(-1, model.grid.values).float(), model.grid) > 0
    patch_mse = torch.full((model.grid.count,), float("nan"))
    patch_mse[mask] = (guess.reconstruction - targets)[0].square().mean(-1).float().cpu()
    rank = torch.full((model.grid.count,), -1)
    own = scores[0].diagonal()[:, None]
    rank[mask] = (scores[0] > own).sum(1).cpu()
    frames = model.grid.frames if frames is None else frames
    return Reconstruction(
        grid=model.grid,
        start=start,
        frames=frames,
        original=fbank.cpu().numpy(),
        mask=mask.cpu().numpy(),
        reconstruction=torch.where(where, drawn, fbank.cpu()).numpy(),
        patch_mse=patch_mse.numpy(),
        rank=rank.numpy(),
        mse=float(losses.mse),
        baseline=visible_mean_mse(fbank[:frames].cpu(), where[:frames]),
        nce=float(losses.nce),
        accuracy=float(losses.accuracy),
    )


def visible_mean_mse(sound: Tensor, hidden: Tensor) -> float:
    """(T, F) log-mel without padding, (T, F) bool -> the mean squared distance of the hidden values from the visible mean
    of their mel bin; from the mean of all that is visible where a bin shows nothing, or from 0, the mean of the training
    data, where nothing is visible at all."""
    visible = ~hidden
    count = visible.sum(0)
    anywhere = sound[visible].mean() if bool(visible.any()) else sound.new_zeros(())
    means = torch.where(count > 0, (sound * visible).sum(0) / count.clamp(min=1), anywhere)
    return float((sound - means).square()[hidden].mean())
