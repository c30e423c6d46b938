"""Windows of sounds.

Axes: W windows, S samples at the upstream's rate, L layers, D width.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ssast_lab.measuring.upstreams import Upstream

BATCH_SECONDS = 16  # of sound that is embedded at once
SHORTEST = 0.25  # of a window: a shorter rest at a sound's end is no window of the map


def cut(blocks: Iterable[Tensor], window: int, hop: int, least: int = 1, grid: int = 1) -> Iterator[tuple[int, Tensor]]:
    """Blocks of a sound (n,) -> (first sample, (S,)) of its windows, each ``hop`` samples after the one before, while no more than
    a window and a block are held.

    All are ``window`` samples long, but for a sound that is shorter and is one window. Where at least ``least`` samples are left
    behind the last, there is one more, which ends with the sound, or begins at a multiple of ``grid`` and ends less than that before.
    """
    held, first, following = torch.empty(0), 0, 0  # held begins at sample first; the next window at sample following
    waiting: list[Tensor] = []
    end = 0
    for block in blocks:
        waiting.append(block)
        end += len(block)
        if end < following + window:
            continue
        held, waiting = torch.cat((held, *waiting)), []
        while following + window <= end:
            yield following, held[following - first :][:window]
            following += hop
        keep = max(min(following, end - window - grid), first)
        held, first = held[keep - first :], keep
    behind = following - hop + window if following else 0
    if end - behind >= least or not following:
        start = max(end - window, 0) // grid * grid
        yield start, torch.cat((held, *waiting))[start - first :][:window]


def embed_windows(upstream: Upstream, waveform: Tensor, seconds: float) -> Iterator[tuple[list[float], np.ndarray]]:
    """(S,) -> where some windows begin, in seconds, and (W, L, D) float16, some windows at a time."""
    window = round(seconds * upstream.rate)
    pieces = cut([waveform], window, window, round(SHORTEST * window))
    while group := [*islice(pieces, max(int(BATCH_SECONDS / seconds), 1))]:
        embeddings = upstream.embed(torch.stack([piece for _, piece in group]), "mean").half().cpu().numpy()
        yield [first / upstream.rate for first, _ in group], embeddings
