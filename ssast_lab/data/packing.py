"""Windows that are sound from end to end: where a clip is shorter than the window, pieces of others follow it.

Axes: B rows of a batch, S samples, T frames of the window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssast_lab import audio
from ssast_lab.config import AudioConfig
from ssast_lab.data.batches import TRIES, Batch, Corpus
from ssast_lab.data.errors import DataError
from ssast_lab.data.streams import Stream

GAP = 2  # frames between two pieces: a frame looks at 2.5 hops of sound, so that none looks at both
REDRAWN = 16  # times, at most, for a clip that is not yet in the row


@dataclass(frozen=True)
class Window:
    """What is to be filled with whole patches, so that no patch lies across a seam."""

    frames: int  # T
    patch: int  # frames of a patch
    config: AudioConfig = audio.OFFICIAL

    def own(self, lengths: Tensor, hops: Tensor | None = None) -> Tensor:
        """(B,) samples of clips -> (B,) frames of their whole patches, at most T."""
        frames = self.config.frames_of(lengths, hops).clamp(max=self.frames)
        return frames // self.patch * self.patch


def fill(batch: Batch, corpus: Corpus, window: Window, keys: Sequence[tuple[int, ...]], hops: Tensor) -> Batch:
    """The batch, in each row of which whole patches of the clip, and of others after it, make up the window.

    What follows a clip is drawn by the row's key, from all clips but those that are in the row already, as long as there are
    others. ``hops`` (B,) are the samples from one frame of a row to the next. A clip that is too short for a patch is left
    out. A batch whose clips all fill the window is returned as it is. :class:`DataError` where nothing is long enough.
    """
    filled = window.own(batch.lengths, hops)
    if bool((filled == window.frames).all()):
        return batch
    everything = torch.arange(len(filled))
    pieces = [_Piece(everything, torch.zeros_like(filled), torch.zeros_like(filled), filled.clone(), batch)]
    ends = _after(torch.zeros_like(filled), filled)  # where the next piece begins, in frames of the row's sound
    names = [[name] for name in batch.names]
    randoms = [np.random.default_rng([*key, Stream.FILLING]) for key in keys]
    for turn in range(TRIES + window.frames // window.patch):
        rows = (filled < window.frames).nonzero()[:, 0]
        if not len(rows):
            return _laid_out(batch, pieces, window, hops, ends, names)
        indices = np.array([_other(randoms[row], corpus, names[row]) for row in rows.tolist()])
        fractions = np.array([randoms[row].random() for row in rows.tolist()])
        room = window.frames - filled[rows]
        found = corpus.crop(
            indices, fractions, [(*keys[row], Stream.FILLING, turn) for row in rows.tolist()],
            window.config.samples_of(room, hops[rows]).numpy(),
        )  # fmt: skip
        got = window.own(found.lengths, hops[rows]).minimum(room)
        pieces.append(_Piece(rows, filled[rows], ends[rows], got, found))
        filled[rows] += got
        ends[rows] = _after(ends[rows], got)
        for row, name in zip(rows.tolist(), found.names, strict=True):
            names[row].append(name)
    raise DataError(
        f"No window of {window.frames} frames can be filled: hardly a clip is as long as a patch of {window.patch} frames, such as "
        f"{names[int(rows[0])][0]}."
    )


@dataclass(frozen=True)
class _Piece:
    """What is added to some rows in one turn. (R,) each."""

    rows: Tensor
    filled: Tensor  # frames of the window before it
    begin: Tensor  # where it begins, in frames of the row's sound
    frames: Tensor
    batch: Batch


def _after(begin: Tensor, frames: Tensor) -> Tensor:
    return torch.where(frames > 0, begin + frames + GAP, begin)


def _other(random: np.random.Generator, corpus: Corpus, names: Sequence[str]) -> int:
    for _ in range(REDRAWN):
        index = int(random.integers(len(corpus.clips)))
        if corpus.clips[index].name not in names:
            break
    return index


def _laid_out(
    batch: Batch, pieces: Sequence[_Piece], window: Window, hops: Tensor, ends: Tensor, names: Sequence[Sequence[str]]
) -> Batch:
    """The pieces of each row in one waveform, and which of its frames make up the window."""
    lengths = window.config.samples_of(ends - GAP, hops)
    waveforms = batch.waveforms.new_zeros(len(lengths), int(lengths.max()))
    chosen = torch.empty(len(lengths), window.frames, dtype=torch.int64)
    short: dict[str, str] = {}
    for piece in pieces:
        columns = zip(
            piece.rows.tolist(), piece.filled.tolist(), piece.begin.tolist(), piece.frames.tolist(), strict=True
        )
        for place, (row, filled, begin, frames) in enumerate(columns):
            if not frames:
                name = piece.batch.names[place]
                short[name] = f"{name!r} is too short for a patch of this model, and was left out."
                continue
            start, size = begin * int(hops[row]), window.config.samples_of(frames, int(hops[row]))
            waveforms[row, start : start + size] = piece.batch.waveforms[place, :size]
            chosen[row, filled : filled + frames] = torch.arange(begin, begin + frames)
        batch = batch.told_of(piece.batch)
    kept = [[name for name in row if name not in short] for row in names]
    return batch._replace(
        waveforms=waveforms, lengths=lengths, names=[" + ".join(row) for row in kept], frames=chosen,
        noticed=(batch.noticed or {}) | short,
    )  # fmt: skip
