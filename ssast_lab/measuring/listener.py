"""A frozen model that is led through sounds of any length, window by window, in memory that does not grow with their length.

Axes: C sounds, W windows, B windows of a batch, S samples at the model's rate, D values of a row. Seconds are from the beginning of a sound.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ssast_lab import audio
from ssast_lab.data import Clip
from ssast_lab.measuring.embedding import BATCH_SECONDS, map_ahead
from ssast_lab.measuring.upstreams import Layered, UpstreamError, of_model, upstream
from ssast_lab.measuring.windows import cut

Sound = audio.Source | np.ndarray | Tensor  # a path, an open file, or an array of samples with its rate
Model = str | os.PathLike[str] | nn.Module | Layered
Key = TypeVar("Key")
AT_ONCE = 4  # windows of a sound that are decoded before its turn comes


class Span(NamedTuple):
    """What a window has seen, in seconds."""

    start: float
    end: float


class Row(NamedTuple):
    """What a model says of one window."""

    start: float
    end: float
    values: np.ndarray  # (D,) float32


@dataclass(frozen=True)
class Table:
    """What a model says of the windows of many sounds, sound by sound."""

    count: int  # C
    sound: np.ndarray  # (W,) the number of each window's sound
    seconds: np.ndarray  # (W, 2)
    values: np.ndarray  # (W, D) float32
    left_out: dict[int, str] = field(default_factory=dict)  # number of a sound that cannot be read -> why
    noticed: dict[int, str] = field(default_factory=dict)  # number of a sound -> what should be known of it

    def clips(self) -> np.ndarray:
        """(C, D): of each sound the mean over its windows, in which every moment counts once; NaN where it was left out."""
        clips = np.full((self.count, self.values.shape[1]), np.nan, np.float32)
        for number in np.unique(self.sound):
            rows = self.sound == number
            clips[number] = shares(self.seconds[rows]) @ self.values[rows]
        return clips


def seams(seconds: np.ndarray) -> np.ndarray:
    """(W, 2) spans of windows in order -> (W + 1,): from where to where each of them counts. Where two overlap, each counts up to the
    middle."""
    between = (seconds[1:, 0] + seconds[:-1, 1]) / 2
    return np.concatenate([seconds[:1, 0], between, seconds[-1:, 1]])


def shares(seconds: np.ndarray) -> np.ndarray:
    """(W, 2) -> (W,) float32: the share of a sound that each window stands for; they sum to 1."""
    lengths = np.diff(seams(seconds))
    return (lengths / lengths.sum()).astype(np.float32)


def _device(name: torch.device | str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch's sentence, and then an address or a trace
        why = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise UpstreamError(f"There is no device {str(name)!r} here ({why}): choose cpu.") from None
    return device


class Listener(ABC):
    """Whoever inherits says what a row is made of.

    A sound shorter than a window is taken at its own length, cut to whole tokens. A longer one is cut into windows that begin every
    ``hop`` seconds; the last one ends with the sound, so that nothing is left out and nothing padded.
    """

    def __init__(
        self,
        model: Model,
        seconds: float | None = None,
        hop: float | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """``model``: what :func:`ssast_lab.load` reads or has read, ``wav2vec2-base`` or ``hubert-base``. ``seconds``: of a window,
        at most what the model was made for, which is the default; it is rounded up to whole tokens. ``hop``: seconds from one
        window to the next; None: windows one after another. ``device`` None is CUDA where there is one.

        :class:`UpstreamError` for what cannot be.
        """
        if isinstance(model, nn.Module):
            found: Any = of_model(type(model).__name__, deepcopy(model))
        else:
            found = model if isinstance(model, Layered) else upstream(model)
        if not isinstance(found, Layered):
            raise UpstreamError(f"{found.name} is no model with tokens: ssast-lab probe and compare measure it.")
        self.rate = found.rate
        if seconds is not None and not 0 < seconds * self.rate <= found.window:
            raise UpstreamError(
                f"A window of {found.name} has more than 0 and at most {found.window / self.rate:g} s, not {seconds}: longer sounds "
                "are cut into several."
            )
        self.device = _device(device)
        self.upstream, self.seconds = found.to(self.device), seconds
        asked = found.window if seconds is None else round(seconds * self.rate)
        longest = found.window + found.overlap
        self.window = longest if seconds is None else min(self._whole(asked + found.overlap, up=True), longest)
        step = asked if hop is None else hop * self.rate
        if not 1 <= step < 1e15:
            raise UpstreamError(f"Windows lie some seconds apart, not {hop}.")
        self.hop = round(step)
        self.overlaps = self.hop != asked

    def _whole(self, samples: int, up: bool = False) -> int:
        """Cut down (or up) to what whole tokens see, at least one."""
        step = self.upstream.step
        steps = (samples - self.upstream.least + (step - 1 if up else 0)) // step
        return self.upstream.least + max(steps, 0) * step

    def prepared(self, piece: Tensor) -> tuple[float, Tensor]:
        """(S,) or (S, B), a window or a shorter sound -> the seconds of it that are seen, and what is batched: such tensors of equal
        shape go together. It is cut to whole tokens, which changes nothing, and lets more be batched."""
        whole = self._whole(len(piece))  # more than it has, where it is shorter than one, which the model pads
        piece = piece[:whole]
        return (whole - self.upstream.overlap) / self.rate, piece.T if piece.ndim == 2 else piece

    @abstractmethod
    def rows(self, batch: Tensor) -> np.ndarray:
        """What :meth:`prepared` gave, B times -> (B, D) float32."""

    def stream(self, sound: Sound, rate: int | None = None) -> Iterator[Row]:
        """The windows of one sound, one after another. An array comes with its ``rate`` in Hz. :class:`ssast_lab.audio.AudioError` for
        what is no sound, as soon as that is met."""
        for spans, batch in self.batches(self.pieces(audio.waveform_blocks(sound, rate, to_rate=self.rate))):
            for span, values in zip(spans, self.rows(batch), strict=True):
                yield Row(*span, values)

    def many(
        self, sounds: Iterable[Sound | Clip], rate: int | None = None, heard: Callable[[float], Any] | None = None
    ) -> Table:
        """The windows of many sounds, decoded by several threads and batched together; ``heard`` is told the seconds of sound that
        each new window adds.

        What cannot be read is left out and told. The same sounds in the same order give the same rows.
        """
        found: list[tuple[int, Span]] = []
        # It grows where it lies: small arrays that are kept between the batches would scatter what is free.
        values = bytearray()
        left_out: dict[int, str] = {}
        noticed: dict[int, str] = {}
        count = 0

        def pieces() -> Iterator[tuple[tuple[int, Span], Tensor]]:
            nonlocal count
            with ThreadPoolExecutor(workers := max(4, os.cpu_count() or 1)) as pool:
                for begun in map_ahead(pool, lambda sound: _Begun(self, sound, rate), sounds, 2 * workers):
                    before = 0.0
                    try:
                        for span, piece in begun:
                            yield (count, span), piece
                            if heard:
                                heard(span.end - before)
                            before = span.end
                    except (audio.AudioError, OSError) as error:
                        left_out[count] = str(error)
                    if begun.notices:
                        noticed[count] = " ".join(map(str, begun.notices))
                    count += 1

        for keys, batch in self.batches(pieces()):
            found += keys
            values += np.ascontiguousarray(self.rows(batch)).data
        order = sorted((at for at, (number, _) in enumerate(found) if number not in left_out), key=found.__getitem__)
        rows = (
            np.frombuffer(values, np.float32).reshape(len(found), -1)
            if found
            else np.empty((0, self.width), np.float32)
        )
        return Table(
            count,
            np.array([found[at][0] for at in order], np.int64),
            np.array([found[at][1] for at in order], np.float64).reshape(-1, 2),
            rows[np.array(order, np.int64)],
            left_out,
            noticed,
        )

    @property
    def width(self) -> int:
        """D"""
        _, piece = self.prepared(torch.zeros(self.window))
        return self.rows(piece[None]).shape[1]

    def pieces(self, blocks: Iterable[Tensor]) -> Iterator[tuple[Span, Tensor]]:
        """Blocks of a sound (n,) or of equally long ones (n, B) -> the prepared windows and what each has seen."""
        grid = self.upstream.step
        for first, piece in cut(blocks, self.window, self.hop, grid, grid):
            seconds, ready = self.prepared(piece)
            yield Span(first / self.rate, first / self.rate + seconds), ready

    def batches(self, pieces: Iterable[tuple[Key, Tensor]]) -> Iterator[tuple[list[Key], Tensor]]:
        """Windows of equal shape together, as many as a batch holds."""
        most = BATCH_SECONDS.get(self.device.type, BATCH_SECONDS["cpu"]) * self.rate
        waiting: dict[torch.Size, list[tuple[Key, Tensor]]] = {}
        for key, piece in pieces:
            batch = waiting.setdefault(piece.shape, [])
            batch.append((key, piece))
            if (len(batch) + 1) * piece.numel() > most:  # features are about as many as samples
                yield _stacked(waiting.pop(piece.shape))
        yield from map(_stacked, waiting.values())


def _stacked(batch: Sequence[tuple[Key, Tensor]]) -> tuple[list[Key], Tensor]:
    return [key for key, _ in batch], torch.stack([piece for _, piece in batch])


class _Begun:
    """The windows of a sound, of which the first have been decoded; an error waits for its turn."""

    def __init__(self, listener: Listener, sound: Sound | Clip, rate: int | None) -> None:
        self.notices: list[audio.AudioWarning] = []
        self.error: Exception | None = None
        self.rest: Iterator[tuple[Span, Tensor]] = iter(())
        self.first: list[tuple[Span, Tensor]] = []
        try:
            opened = sound.open() if isinstance(sound, Clip) else sound
            self.rest = listener.pieces(
                audio.waveform_blocks(opened, rate, notices=self.notices, to_rate=listener.rate)
            )
            self.first += islice(self.rest, AT_ONCE)
        except (audio.AudioError, OSError) as error:
            self.error = error

    def __iter__(self) -> Iterator[tuple[Span, Tensor]]:
        yield from self.first
        if self.error:
            raise self.error
        yield from self.rest
