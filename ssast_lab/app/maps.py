"""Visitors' maps: the windows of many sounds, embedded a slice at a time, and laid out."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ssast_lab import audio
from ssast_lab.app.sources import load_model
from ssast_lab.measuring import points, upstreams, windows
from ssast_lab.measuring.points import Method

SLICE = 0.6  # seconds of work in the answer to one question
MOST = 6000  # windows


class Source(Protocol):
    """A sound that is decoded when its turn comes."""

    @property
    def name(self) -> str: ...

    def waveform(self, notices: list[audio.AudioWarning] | None = None, rate: int = audio.SAMPLE_RATE) -> Tensor: ...


@dataclass(frozen=True)
class Builtin:
    """A built-in sound, in a folder that is its kind."""

    name: str
    path: str

    def waveform(self, notices: list[audio.AudioWarning] | None = None, rate: int = audio.SAMPLE_RATE) -> Tensor:
        return audio.load_waveform(self.path, notices=notices, to_rate=rate)


@dataclass(eq=False)
class SoundMap:
    """What is known of it so far."""

    sources: Sequence[Source]
    model: Path
    seconds: float  # of a window
    passed: str = ""  # what was sent and is no sound
    measured: int = 0  # sounds that are behind it
    left_out: dict[str, str] = field(default_factory=dict)  # name -> why
    noticed: dict[str, str] = field(default_factory=dict)  # name -> what should be known of a sound that is in it
    sound: list[int] = field(default_factory=list)  # of each window: its place among the sources
    second: list[float] = field(default_factory=list)  # and where it begins
    _parts: list[np.ndarray] = field(default_factory=list)  # (some windows, L, D)
    _work: Iterator[None] | None = None
    _layouts: dict[tuple[str, int, int], Future[np.ndarray]] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.measured == len(self.sources)

    def embeddings(self, layer: int) -> np.ndarray:
        """(W, D)"""
        return np.concatenate([part[:, layer] for part in self._parts]) if self._parts else np.empty((0, 1), np.float16)

    @property
    def layers(self) -> int:
        return self._parts[0].shape[1] if self._parts else 0

    def advance(self, seconds: float = SLICE) -> None:
        """Goes on measuring for about so long."""
        ends = time.monotonic() + seconds
        self._work = self._work or self._measure()
        while not self.done and time.monotonic() < ends:
            next(self._work, None)

    def _measure(self) -> Iterator[None]:
        upstream = upstreams.of_encoder("map", load_model(self.model).encoder)
        for place, source in enumerate(self.sources):
            notices: list[audio.AudioWarning] = []
            try:
                waveform = source.waveform(notices, upstream.rate)
            except audio.AudioError as error:
                self.left_out[source.name] = error.about("it")
            else:
                if notices:
                    self.noticed[source.name] = " ".join(notice.about("It") for notice in notices)
                yield from self._embed(upstream, place, waveform)
            self.measured = place + 1
            yield

    def _embed(self, upstream: upstreams.Upstream, place: int, waveform: Tensor) -> Iterator[None]:
        """The windows of a sound: those of a part stand in its place only when they are there."""
        for seconds, part in windows.embed_windows(upstream, waveform, self.seconds):
            room = MOST - len(self.sound)
            if room < len(part):
                self.left_out[self.sources[place].name] = f"the map is full: it has room for {MOST} windows"
            if room <= 0:
                return
            self._parts.append(part[:room])
            self.second += seconds[:room]
            self.sound += [place] * len(self._parts[-1])
            yield

    def layout(self, method: Method, layer: int) -> np.ndarray | None:
        """(W, 2), or None where it is still being computed, in a thread that holds up nobody."""
        if method == "pca":
            return points.lay_out(self.embeddings(layer))
        key = (method, layer, len(self.sound))
        if key not in self._layouts:
            self._layouts = {key: _in_thread(points.lay_out, self.embeddings(layer), method)}
        future = self._layouts[key]
        return future.result() if future.done() else None


def _in_thread(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """The server does not wait for it when it ends."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # told to whoever asks for the result
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future
