"""More out of the same sound: in pretraining, clips may be mixed, and made louder, faster and brighter, each at random.

Axes: B clips, R of them that have a partner, T frames, F mel bins. All of it is done to the features, on whichever device they
are made, for next to nothing: sounds that do not interfere add up in energy, a louder or brighter one differs by a constant
in each band, and a faster one is the same sound looked at with longer windows.

A mel energy of ``audio.EPSILON``, the least one, is none: a louder silence is still silence, and so is a mixed one. One of the
official 128 mel filters is so narrow that it never hears anything, and would else give every change away.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssast_lab import audio, data
from ssast_lab.config import AudioConfig, TrainingConfig
from ssast_lab.patches import to_device_of

DECIBEL = math.log(10) / 10  # in log energy
PARTNER = 10.0  # dB by which a partner is made louder or softer at most before it is mixed in


def hops(stretch: float, config: AudioConfig = audio.OFFICIAL) -> list[int]:
    """The samples from one frame to the next that stand for the paces from 1 - stretch to 1 + stretch, in order."""
    steps = math.floor(stretch * config.hop / config.pace)
    return [config.hop + config.pace * step for step in range(-steps, steps + 1)]


@dataclass
class AugmentingPlan(data.Plan):
    """A plan whose batches say what is done to their clips, where the settings ask for it, and whose clips fill the window."""

    settings: TrainingConfig = field(default_factory=TrainingConfig)
    window: data.Window | None = None  # None: what a clip leaves of the window is padding
    config: AudioConfig = audio.OFFICIAL

    def __getitem__(self, step: int) -> data.Batch:
        batch, s = super().__getitem__(step), self.settings
        changes = self._draw(step) if any((s.mix, s.level, s.stretch, s.tilt)) else None
        if self.window is not None:
            hops = torch.full(batch.lengths.shape, self.config.hop) if changes is None else changes.hop
            keys = [(self.seed, int(place)) for place in self.places(step)]
            batch = data.fill(batch, self.corpus, self.window, keys, hops)
        return batch if changes is None else batch.told_of(changes.partners)._replace(changes=changes)

    def _draw(self, step: int) -> data.Changes:
        """All are drawn evenly for the global batch, and what is drawn of one does not depend on the settings of the others;
        partners are drawn from the whole corpus."""
        s, clips = self.settings, (self.batch,)
        generator = data.generator(self.seed, step, data.Stream.AUGMENTATION)
        decibels = (2 * torch.rand(*clips, 3, generator=generator) - 1) * torch.tensor([s.level, s.tilt, PARTNER])
        has_partner = torch.rand(clips, generator=generator) < s.mix
        indices = torch.randint(len(self.corpus.clips), clips, generator=generator)
        fractions = torch.rand(clips, generator=generator, dtype=torch.float64)
        paces = torch.tensor(hops(s.stretch, self.config))
        hop = paces[torch.randint(len(paces), clips, generator=generator)]

        level, tilt, partner_level = decibels[self.rows].unbind(1)
        mixed = has_partner[self.rows].nonzero()[:, 0]
        indices, fractions = indices[self.rows][mixed], fractions[self.rows][mixed]
        keys = [(self.seed, int(place), data.Stream.PARTNER) for place in self.places(step)[mixed.numpy()]]
        partners = self.corpus.crop(indices.numpy(), fractions.numpy(), keys)
        return data.Changes(hop[self.rows], level, tilt, mixed, partner_level[mixed], partners)


def features(batch: data.Batch, config: AudioConfig, frames: int) -> Tensor:
    """(B, T, F) normalised log-mel of a batch to which is done what it asks for. Padding stays what it is, and so does every bit
    where nothing is changed. A clip that is shorter than one window of its new pace keeps its own."""
    if batch.changes is None:
        return batch.features(config, frames)
    hop, level, tilt, mixed, partner_level, partners = batch.changes
    plain, is_sound = _heard(batch, config, frames, hop)
    both = plain
    if len(mixed):
        other, other_is_sound = _heard(partners, config, frames, hop[mixed])
        rows = to_device_of(mixed, plain)
        louder = mix(plain[rows], other.masked_fill(~other_is_sound, -math.inf), partner_level, config)
        both = plain.index_copy(0, rows, louder)
    return amplify(both, gains(level, tilt, plain.shape[2]), config).where(is_sound, plain)


def _heard(batch: data.Batch, config: AudioConfig, frames: int, hop: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, F) normalised log-mel at a pace, and (B, T, 1) where it is no padding."""
    hop = hop.where(batch.lengths >= config.window_of(hop), config.hop)
    fbank = batch.features(config, frames, hop)
    return fbank, to_device_of(batch.is_sound(config, frames, hop), fbank).unsqueeze(2)


def mix(one: Tensor, other: Tensor, decibels: Tensor, config: AudioConfig) -> Tensor:
    """(R, T, F) normalised log-mel of two sounds, of which the other is first made louder by (R,) dB: their energies are
    added, as those of sounds are that do not interfere. Where the other is -inf there is none of it."""
    scale, floor = 2 * config.std, _floor(config)
    a, b = (scale * x.masked_fill(x <= floor, -math.inf) for x in (one, other))
    louder = to_device_of(DECIBEL * decibels, b)[:, None, None]
    return (torch.logaddexp(a, b + louder) / scale).clamp(min=_silence(config))


def gains(level: Tensor, tilt: Tensor, mel_bins: int) -> Tensor:
    """(B, F) dB: the level (B,) in all bands, and a straight line over the mel scale whose ends lie the tilt (B,) apart."""
    return level[:, None] + tilt[:, None] * torch.linspace(-0.5, 0.5, mel_bins)


def amplify(fbank: Tensor, decibels: Tensor, config: AudioConfig) -> Tensor:
    """(B, T, F) normalised log-mel of sounds whose bands are made louder by (B, F) dB. What would be less than the least
    energy is the least one, and what was the least one stays so."""
    louder = fbank + to_device_of(DECIBEL / (2 * config.std) * decibels, fbank)[:, None]
    return louder.clamp(min=_silence(config)).where(fbank > _floor(config), fbank)


def _silence(config: AudioConfig) -> float:
    """The least mel energy as normalised log-mel."""
    return (math.log(audio.EPSILON) - config.mean) / (2 * config.std)


def _floor(config: AudioConfig) -> float:
    """What is no more than this is the least mel energy, however it was rounded."""
    return _silence(config) + 1e-5
