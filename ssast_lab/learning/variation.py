"""The clips of fine-tuning, varied: mixup, SpecAugment, noise.

Axes: B clips of the global batch, S samples, T frames, F mel bins, C clips of a set, L labels. All is drawn by keys made of the
seed and the place in the run.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssast_lab import audio, data
from ssast_lab.config import AudioConfig
from ssast_lab.patches import to_device_of

SHIFT = 10  # frames by which a clip is shifted at most


@dataclass
class LabelledPlan(data.Plan):
    """A plan whose batches have targets, and in which some clips are mixed with another one (mixup)."""

    targets: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))  # (C, L)
    mixup: float = 0.0
    chances: np.ndarray | None = None  # (C,) cumulative weights by which clips are drawn; None: each once an epoch

    def indices(self, places: np.ndarray) -> np.ndarray:
        if self.chances is None:
            return super().indices(places)
        drawn = [np.random.default_rng([self.seed, int(place), data.Stream.BALANCED]).random() for place in places]
        return np.searchsorted(self.chances, np.array(drawn) * self.chances[-1], side="right")

    def __getitem__(self, step: int) -> data.Batch:
        batch = super().__getitem__(step)
        targets = torch.from_numpy(self.targets)[batch.indices.cpu()]
        if self.mixup:
            batch, targets = self._mixed(batch, targets, self.places(step))
        return batch._replace(targets=targets)

    def _mixed(self, batch: data.Batch, targets: Tensor, places: np.ndarray) -> tuple[data.Batch, Tensor]:
        """Mixes a share of some clips with the rest of a partner, both without their means, cut to the clip's length."""
        randoms = [np.random.default_rng([self.seed, int(place), data.Stream.MIXUP]) for place in places]
        rows = [row for row, random in enumerate(randoms) if random.random() < self.mixup]
        if not rows:
            return batch, targets
        partners = np.array([randoms[row].integers(len(self.targets)) for row in rows])
        share = torch.tensor([randoms[row].beta(10, 10) for row in rows], dtype=torch.float32)[:, None]
        fractions = np.array([randoms[row].random() for row in rows])
        other = self.corpus.crop(
            partners, fractions, [(self.seed, int(places[row]), data.Stream.MIXUP) for row in rows]
        )
        device = batch.waveforms.device
        weight = share.to(device)
        mixed = weight * _centred(batch.waveforms[rows], batch.lengths[rows]) + (1 - weight) * _centred(
            other.waveforms, other.lengths
        )
        is_sound = audio.within(to_device_of(batch.lengths[rows], mixed), mixed.shape[1])
        waveforms = batch.waveforms.clone()
        waveforms[rows] = mixed * is_sound
        targets = targets.clone()
        targets[rows] = share * targets[rows] + (1 - share) * torch.from_numpy(self.targets)[other.indices.cpu()]
        return batch.told_of(other)._replace(waveforms=waveforms), targets


def _centred(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """(B, S), of which the first ``lengths`` (B,) are sound -> the same without their means."""
    lengths = to_device_of(lengths, waveforms)
    is_sound = audio.within(lengths, waveforms.shape[1])
    return (waveforms - waveforms.sum(1, keepdim=True) / lengths[:, None]) * is_sound


def vary(
    fbank: Tensor, config: AudioConfig, noise: bool, spans: Tensor, shifts: Tensor, loudness: Tensor, seeds: Tensor
) -> Tensor:
    """(B, T, F) normalised log-mel, varied as the official ``src/dataloader.py`` does.

    SpecAugment (Park et al., Interspeech 2019) sets to 0, before normalisation, the mel bins and frames of ``spans`` (B, 4):
    first and end bin, first and end frame. With ``noise``, uniform noise from 0 to ``loudness`` (B,) is added, drawn by
    ``seeds`` (B,), and the clip is rotated along time by ``shifts`` (B,) frames."""
    frames, bins = fbank.shape[1:]
    spans, shifts, loudness = (to_device_of(drawn, fbank) for drawn in (spans, shifts, loudness))
    low, high, begin, end = (column[:, None] for column in spans.unbind(1))
    bin_, frame = torch.arange(bins, device=fbank.device), torch.arange(frames, device=fbank.device)
    hidden = ((bin_ >= low) & (bin_ < high))[:, None] | ((frame >= begin) & (frame < end))[:, :, None]
    fbank = fbank.masked_fill(hidden, -config.mean / (2 * config.std))
    if not noise:
        return fbank
    uniform = torch.stack([
        torch.rand(frames, bins, generator=torch.Generator(fbank.device).manual_seed(int(seed)), device=fbank.device)
        for seed in seeds
    ])  # fmt: skip
    fbank = fbank + uniform * loudness[:, None, None]
    rows = torch.arange(len(fbank), device=fbank.device)[:, None]
    return fbank[rows, (frame - shifts[:, None]) % frames]
