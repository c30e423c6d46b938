"""Any sound in, embeddings with their times out: of a file, an array, a folder.

Axes: W windows, B windows of a batch, S samples at the model's rate, T steps in time, R bands of frequency, N = R * T tokens, D width
(twice that where mean and deviation are pooled). Seconds are from the beginning of a sound; a span of them is (start, end).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssast_lab import audio
from ssast_lab.measuring.listener import Listener, Model, Sound, Span, seams, shares
from ssast_lab.measuring.upstreams import UpstreamError, check_pooling

DTYPES = ("float32", "bfloat16")


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


class Embedder(Listener):
    """A frozen model that embeds sounds of any length, window by window::

    embedder = ssast_lab.Embedder("tiny-patch", layers=(8, 9, 10))
    bird = embedder("bird.flac")  # bird.clip (D,), bird.steps (T, D), bird.patches (T, R, D), bird.step_seconds (T, 2) ...
    table = embedder.many(["one.wav", "two.mp3"])  # one row a window; table.clips() (2, D)
    """

    def __init__(
        self,
        model: Model,
        layers: int | Sequence[int] = -1,
        pooling: str = "mean",
        seconds: float | None = None,
        hop: float | None = None,
        device: torch.device | str | None = None,
        dtype: str = "float32",
    ) -> None:
        """``layers``: the number of one from 0, or of several whose mean is taken; negative ones count from the last. ``pooling``:
        over a window's tokens, "mean", "statistics" (mean and standard deviation, one after the other), "cls" or "max". The
        others are those of :class:`Listener`. ``dtype`` "bfloat16": matrix products are rounded so, which is faster on processors and
        GPUs that multiply it fast, and a little less exact. :class:`UpstreamError` for what cannot be.
        """
        super().__init__(model, seconds, hop, device)
        check_pooling(pooling)
        if dtype not in DTYPES:
            raise UpstreamError(f"dtype is {' or '.join(DTYPES)}, not {dtype!r}.")
        self.pooling, self.layers, self.dtype = pooling, self._layers(layers), dtype

    def _layers(self, layers: int | Sequence[int]) -> tuple[int, ...]:
        count, asked = self.upstream.layers, [*layers] if isinstance(layers, Iterable) else [layers]
        if not asked or not all(isinstance(layer, int | np.integer) and -count <= layer < count for layer in asked):
            raise UpstreamError(
                f"{self.upstream.name} has layers from 0 to {count - 1}, or from -{count} to -1, not {layers}."
            )
        return tuple(int(layer) % count for layer in asked)

    @property
    def settings(self) -> dict[str, Any]:
        """JSON: all that decides the embeddings. Equal settings give equal ones, up to rounding."""
        return {
            "model": self.upstream.name, "key": self.upstream.key, "layers": list(self.layers), "pooling": self.pooling,
            "seconds": self.seconds, "hop": self.hop / self.rate if self.overlaps else None,
        } | ({} if self.dtype == "float32" else {"dtype": self.dtype})  # fmt: skip

    def __call__(self, sound: Sound, rate: int | None = None) -> Embedding:
        """Everything about one sound. It takes as much memory as the result: of a long sound :meth:`stream` or :meth:`many` gives
        the windows alone. An array comes with its ``rate`` in Hz. :class:`ssast_lab.audio.AudioError` for what is no sound."""
        blocks = (block[:, None] for block in audio.waveform_blocks(sound, rate, to_rate=self.rate))
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

    def tokens(self, waveforms: Tensor) -> tuple[Tensor, np.ndarray]:
        """(B, S) at the model's rate, all equally long -> (B, T, R, D), and (T, 2) their seconds."""
        tokens, _, step_seconds, _ = self._joined([waveforms.T])
        return tokens, step_seconds

    def _joined(self, blocks: Iterable[Tensor]) -> tuple[Tensor, np.ndarray, np.ndarray, list[Tensor]]:
        """Blocks (n, B) of equally long sounds -> (B, T, R, D), (W, 2) spans of windows, (T, 2) of steps, and (B, D) of each window."""
        spans: list[Span] = []
        places, pooled = [], []
        for keys, batch in self.batches(self.pieces(blocks)):
            tokens = self._tokens(batch.flatten(0, 1)).unflatten(0, (len(batch), -1))
            places += [self.upstream.places(window) for window in tokens]
            pooled += [self.upstream.pool(window, self.pooling) for window in tokens]
            spans += keys
        borders = seams(np.array(spans))
        borders[0], borders[-1] = -np.inf, np.inf
        wide = self.upstream.least - self.upstream.overlap
        kept, seconds = [], []
        for number, each in enumerate(places):
            begins = round(spans[number].start * self.rate) + self.upstream.step * np.arange(each.shape[1])
            middle = (begins + wide / 2) / self.rate
            here = (borders[number] <= middle) & (middle < borders[number + 1])
            kept.append(each[:, torch.from_numpy(here).to(each.device)])
            seconds.append(np.stack([begins, begins + wide], 1)[here] / self.rate)
        return torch.cat(kept, 1), np.array(spans), np.concatenate(seconds), pooled

    def rows(self, batch: Tensor) -> np.ndarray:
        return self.upstream.pool(self._tokens(batch), self.pooling).float().cpu().numpy()

    @torch.inference_mode()
    def _tokens(self, waveforms: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            return self.upstream.tokens(waveforms.to(self.device), self.layers)
