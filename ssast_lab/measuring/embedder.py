"""Any sound in, embeddings with their times out: of a file, an array, a folder.

Axes: C sounds, W windows, B windows of a batch, S samples at 16 kHz, T steps in time, R bands of frequency, N = R * T tokens, D width
(twice that where mean and deviation are pooled). Seconds are from the beginning of a sound; a span of them is (start, end).
"""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ssast_lab import audio
from ssast_lab.measuring.embedding import BATCH_SECONDS, map_ahead
from ssast_lab.measuring.upstreams import Layered, UpstreamError, check_pooling, of_model, upstream
from ssast_lab.measuring.windows import cut

Sound = audio.Source | np.ndarray | Tensor  # a path, an open file, or an array of samples with its rate
Key = TypeVar("Key", bound=Hashable)
AT_ONCE = 4  # windows of a sound that are decoded before its turn comes


@dataclass(frozen=True)
class Embedding:
    """What a model makes of one sound."""

    clip: np.ndarray  # (D,) the mean over the windows, in which every moment counts once
    windows: np.ndarray  # (W, D)
    window_seconds: np.ndarray  # (W, 2) what each has seen
    steps: np.ndarray  # (T, D) the mean over the bands; where windows overlap, of the one in which the step lies deeper
    step_seconds: np.ndarray  # (T, 2)
    patches: np.ndarray  # (T, R, D) the lowest band first; R is 1 where tokens see all frequencies
    hertz: np.ndarray  # (R, 2)


class Row(NamedTuple):
    """One window of a sound."""

    start: float
    end: float
    embedding: np.ndarray  # (D,) float32


@dataclass(frozen=True)
class Table:
    """The windows of many sounds, sound by sound."""

    count: int  # C
    sound: np.ndarray  # (W,) the number of each window's sound
    seconds: np.ndarray  # (W, 2)
    embeddings: np.ndarray  # (W, D) float32
    left_out: dict[int, str] = field(default_factory=dict)  # number of a sound that cannot be read -> why
    noticed: dict[int, str] = field(default_factory=dict)  # number of a sound -> what should be known of it

    def clips(self) -> np.ndarray:
        """(C, D): of each sound the mean over its windows, in which every moment counts once; NaN where it was left out."""
        clips = np.full((self.count, self.embeddings.shape[1]), np.nan, np.float32)
        for number in np.unique(self.sound):
            rows = self.sound == number
            clips[number] = shares(self.seconds[rows]) @ self.embeddings[rows]
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


class Embedder:
    """A frozen model that embeds sounds of any length, window by window::

        embedder = ssast_lab.Embedder("tiny-patch", layers=(8, 9, 10))
        bird = embedder("bird.flac")  # bird.clip (D,), bird.steps (T, D), bird.patches (T, R, D), bird.step_seconds (T, 2) ...
        table = embedder.many(["one.wav", "two.mp3"])  # one row a window; table.clips() (2, D)

    A sound shorter than a window is taken at its own length, cut to whole tokens. A longer one is cut into windows that begin every
    ``hop`` seconds; the last one ends with the sound, so that nothing is left out and nothing padded.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module | Layered,
        layers: int | Sequence[int] = -1,
        pooling: str = "mean",
        seconds: float | None = None,
        hop: float | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """``model``: what :func:`ssast_lab.load` reads or has read, ``wav2vec2-base`` or ``hubert-base``. ``layers``: the number
        of one from 0, or of several whose mean is taken; negative ones count from the last. ``pooling``: over a window's tokens,
        "mean", "statistics" (mean and standard deviation, one after the other), "cls" or "max". ``seconds``: of a window, at most
        what the model was made for, which is the default; it is rounded up to whole tokens. ``hop``: seconds from one window to
        the next; None: windows one after another. ``device`` None is CUDA where there is one.

        :class:`UpstreamError` for what cannot be.
        """
        if isinstance(model, nn.Module):
            found: Any = of_model(type(model).__name__, deepcopy(model))
        else:
            found = model if isinstance(model, Layered) else upstream(model)
        if not isinstance(found, Layered):
            raise UpstreamError(f"{found.name} is no model with tokens: ssast-lab probe and compare measure it.")
        check_pooling(pooling)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.upstream = found.to(self.device)
        self.pooling, self.rate = pooling, audio.SAMPLE_RATE
        self.layers = self._layers(layers)
        longest = found.window + found.overlap
        self.window = (
            longest
            if seconds is None
            else min(self._whole(round(seconds * self.rate) + found.overlap, up=True), longest)
        )
        if seconds is not None and not 0 < seconds * self.rate <= found.window:
            raise UpstreamError(
                f"A window of {found.name} has more than 0 and at most {found.window / self.rate:g} s, not {seconds}: longer sounds "
                "are cut into several."
            )
        self.seconds, self._usual_hop = seconds, found.window if seconds is None else round(seconds * self.rate)
        step = self._usual_hop if hop is None else hop * self.rate
        if not 1 <= step < 1e15:
            raise UpstreamError(f"Windows lie some seconds apart, not {hop}.")
        self.hop = round(step)

    def _layers(self, layers: int | Sequence[int]) -> tuple[int, ...]:
        count, asked = self.upstream.layers, [layers] if isinstance(layers, int) else [*layers]
        if not asked or not all(isinstance(layer, int) and -count <= layer < count for layer in asked):
            raise UpstreamError(
                f"{self.upstream.name} has layers from 0 to {count - 1}, or from -{count} to -1, not {layers}."
            )
        return tuple(layer % count for layer in asked)

    def _whole(self, samples: int, up: bool = False) -> int:
        """Cut down (or up) to what whole tokens see, at least one."""
        step = self.upstream.step
        steps = (samples - self.upstream.least + (step - 1 if up else 0)) // step
        return self.upstream.least + max(steps, 0) * step

    @property
    def settings(self) -> dict[str, Any]:
        """JSON: all that decides the embeddings. Equal settings give equal ones, up to rounding."""
        return {
            "model": self.upstream.name, "key": self.upstream.key, "layers": list(self.layers), "pooling": self.pooling,
            "seconds": self.seconds, "hop": None if self.hop == self._usual_hop else self.hop / self.rate,
        }  # fmt: skip

    @property
    def width(self) -> int:
        """D of a window's embedding."""
        return self._rows(torch.zeros(1, self.upstream.least)).shape[1]

    # --- one sound ------------------------------------------------------------------------------------------------

    def __call__(self, sound: Sound, rate: int | None = None) -> Embedding:
        """Everything about one sound. It takes as much memory as the result: of a long sound :meth:`stream` or :meth:`many` gives
        the windows alone. An array comes with its ``rate`` in Hz. :class:`ssast_lab.audio.AudioError` for what is no sound."""
        blocks = (block[:, None] for block in audio.waveform_blocks(sound, rate))
        tokens, spans, step_seconds, pooled = self._joined(blocks)
        patches = tokens[0].float().cpu().numpy()
        rows = np.concatenate([part.float().cpu().numpy() for part in pooled])
        return Embedding(
            clip=shares(spans) @ rows,
            windows=rows,
            window_seconds=spans,
            steps=patches.mean(1),
            step_seconds=step_seconds,
            patches=patches,
            hertz=np.array(self.upstream.bands),
        )

    def stream(self, sound: Sound, rate: int | None = None) -> Iterator[Row]:
        """The windows of one sound, one after another, in memory that does not grow with its length."""
        for keys, batch in self._batches(self._pieces(audio.waveform_blocks(sound, rate))):
            for start, row in zip(keys, self._rows(batch), strict=True):
                yield Row(start, start + self._seconds(batch.shape[1]), row)

    def tokens(self, waveforms: Tensor) -> tuple[Tensor, np.ndarray]:
        """(B, S) at 16 kHz, all equally long -> (B, T, R, D), and (T, 2) their seconds."""
        tokens, _, step_seconds, _ = self._joined([waveforms.T])
        return tokens, step_seconds

    def _joined(self, blocks: Iterable[Tensor]) -> tuple[Tensor, np.ndarray, np.ndarray, list[Tensor]]:
        """Blocks (n, B) of equally long sounds -> (B, T, R, D), (W, 2) spans of windows, (T, 2) of steps, and (B, D) of each window."""
        spans, places, pooled = [], [], []
        for keys, batch in self._batches(self._pieces(blocks)):
            tokens = self._tokens(batch.flatten(0, 1)).unflatten(0, (len(batch), -1))
            places += [self.upstream.places(window) for window in tokens]
            pooled += [self.upstream.pool(window, self.pooling) for window in tokens]
            spans += [(start, start + self._seconds(batch.shape[-1])) for start in keys]
        borders = seams(np.array(spans))
        borders[0], borders[-1] = -np.inf, np.inf
        wide = self.upstream.least - self.upstream.overlap
        kept, seconds = [], []
        for number, each in enumerate(places):
            begins = round(spans[number][0] * self.rate) + self.upstream.step * np.arange(each.shape[1])
            middle = (begins + wide / 2) / self.rate
            here = (borders[number] <= middle) & (middle < borders[number + 1])
            kept.append(each[:, torch.from_numpy(here).to(each.device)])
            seconds.append(np.stack([begins, begins + wide], 1)[here] / self.rate)
        return torch.cat(kept, 1), np.array(spans), np.concatenate(seconds), pooled

    # --- many sounds ----------------------------------------------------------------------------------------------

    def many(
        self, sounds: Iterable[Sound], rate: int | None = None, heard: Callable[[float], Any] | None = None
    ) -> Table:
        """The windows of many sounds, decoded by several threads and batched together; ``heard`` is told the seconds of sound that
        each new window adds.

        What cannot be read is left out and told. The same sounds in the same order give the same rows.
        """
        found: dict[tuple[int, float], Row] = {}
        left_out: dict[int, str] = {}
        noticed: dict[int, str] = {}
        count = 0

        def pieces() -> Iterator[tuple[tuple[int, float], Tensor]]:
            nonlocal count
            with ThreadPoolExecutor(workers := max(4, os.cpu_count() or 1)) as pool:
                for begun in map_ahead(pool, lambda sound: _Begun(self, sound, rate), sounds, 2 * workers):
                    try:
                        for start, piece in begun:
                            yield (count, start), piece
                            if heard:
                                heard(min(len(piece), self.hop) / self.rate)
                    except (audio.AudioError, OSError) as error:
                        left_out[count] = str(error)
                    if begun.notices:
                        noticed[count] = " ".join(map(str, begun.notices))
                    count += 1

        for keys, batch in self._batches(pieces()):
            length = self._seconds(batch.shape[1])
            for key, row in zip(keys, self._rows(batch), strict=True):
                found[key] = Row(key[1], key[1] + length, row)
        keys = sorted(key for key in found if key[0] not in left_out)
        rows = [found[key] for key in keys]
        return Table(
            count,
            np.array([number for number, _ in keys], np.int64),
            np.array([row[:2] for row in rows], np.float64).reshape(-1, 2),
            np.stack([row.embedding for row in rows]) if rows else np.empty((0, self.width), np.float32),
            left_out,
            noticed,
        )

    # --- windows and batches --------------------------------------------------------------------------------------

    def _pieces(self, blocks: Iterable[Tensor]) -> Iterator[tuple[float, Tensor]]:
        """Blocks (n,) or (n, B) -> (second at which it begins, the samples of a window (S,) or (B, S))."""
        step = self.upstream.step
        for first, piece in cut(blocks, self.window, self.hop, step, step):
            if len(piece) >= self.upstream.least:  # shorter ones are padded by the model
                piece = piece[: self._whole(len(piece))]
            yield first / self.rate, piece.T if piece.ndim == 2 else piece

    def _batches(self, pieces: Iterable[tuple[Key, Tensor]]) -> Iterator[tuple[list[Key], Tensor]]:
        """Windows of equal shape together, as many as a batch holds."""
        most = BATCH_SECONDS.get(self.device.type, BATCH_SECONDS["cpu"]) * self.rate
        waiting: dict[torch.Size, list[tuple[Key, Tensor]]] = {}
        for key, piece in pieces:
            batch = waiting.setdefault(piece.shape, [])
            batch.append((key, piece))
            if (len(batch) + 1) * piece.numel() > most:
                yield _stacked(waiting.pop(piece.shape))
        yield from map(_stacked, waiting.values())

    @torch.inference_mode()
    def _tokens(self, waveforms: Tensor) -> Tensor:
        return self.upstream.tokens(waveforms.to(self.device), self.layers)

    @torch.inference_mode()
    def _rows(self, waveforms: Tensor) -> np.ndarray:
        """(B, S) -> (B, D) float32"""
        return self.upstream.pool(self._tokens(waveforms), self.pooling).float().cpu().numpy()

    def _seconds(self, samples: int) -> float:
        """What a window of so many samples has seen."""
        return (self._whole(samples) - self.upstream.overlap) / self.rate


def _stacked(batch: Sequence[tuple[Key, Tensor]]) -> tuple[list[Key], Tensor]:
    return [key for key, _ in batch], torch.stack([piece for _, piece in batch])


class _Begun:
    """The windows of a sound, of which the first have been decoded; an error waits for its turn."""

    def __init__(self, embedder: Embedder, sound: Sound, rate: int | None) -> None:
        self.notices: list[audio.AudioWarning] = []
        self.error: Exception | None = None
        self.rest = embedder._pieces(audio.waveform_blocks(sound, rate, notices=self.notices))
        self.first: list[tuple[float, Tensor]] = []
        try:
            self.first += islice(self.rest, AT_ONCE)
        except (audio.AudioError, OSError) as error:
            self.error = error

    def __iter__(self) -> Iterator[tuple[float, Tensor]]:
        yield from self.first
        if self.error:
            raise self.error
        yield from self.rest
