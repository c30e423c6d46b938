"""From a sound file of nearly any kind to a waveform at the rate that a model hears.

Axes: S samples at that rate, N samples at the file's rate, K channels.
"""

import io
import json
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssast_lab.audio import blocks
from ssast_lab.audio.arrays import of_array
from ssast_lab.audio.errors import AudioError, AudioWarning

SAMPLE_RATE = 16000  # Hz, of the official models
SHORTEST = 0.025  # seconds: what one frame of features looks at
# a path, a file that is open for reading and can be sought in, its bytes, or samples: (N,), (K, N) or (N, K)
Source = str | os.PathLike[str] | io.IOBase | bytes | bytearray | memoryview | np.ndarray | Tensor
Channel = Literal["mean", "loudest", "left", "right"] | int  # a number counts from 0

SIDES = ("left", "right")
LOUDEST = 1e12  # of a sample, where 1 is full scale; the energies of one above 1e19 are infinite in float32
MARGIN = 0.1  # seconds read on either side of a crop, for the resampler
WHOLE = 120  # seconds; of a sound that is no longer, a piece is cut from the whole
CANCELLED = 10 ** (-6 / 10)  # of the loudest channel's power: -6 dB
BEYOND = 1e-3  # of a sound's power, that is left below half the rate
_KNOWN: dict[tuple, "_Measured"] = {}  # of files that do not change, with or without the damage within


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file is. The length is that of what can be decoded, whatever its header says."""

    seconds: float
    sample_rate: int  # Hz
    channels: int
    format: str  # container and codec, "WAV, Signed 16 bit PCM"


@dataclass(frozen=True)
class _Measured:
    info: AudioInfo
    notices: tuple[AudioWarning, ...]


@dataclass(frozen=True)
class InputReport:
    """What became of a sound on its way to a waveform."""

    sample_rate: int  # Hz, of what was given
    to_rate: int  # Hz, of the waveform; it was resampled where they differ
    channels: int
    bits: int | None  # of a sample; None where a codec has none
    format: str  # container and codec, or the type of an array
    seconds: float | None  # of the whole; None where only a part of it was decoded and its header tells nothing
    used: tuple[float, float]  # seconds from its start: what the waveform is
    channel: str  # which one is heard, or how they are mixed
    notices: tuple[AudioWarning, ...]

    def __str__(self) -> str:
        bits = "" if self.bits is None else f", {self.bits} bits"
        whole = "" if self.seconds is None else f" of {self.seconds:.2f}"
        resampled = (
            "" if self.sample_rate == self.to_rate else f", resampled from {self.sample_rate} to {self.to_rate} Hz"
        )
        left = (
            "" if self.seconds is None else f"; {max(0.0, self.seconds - self.used[1] + self.used[0]):.2f} s left out"
        )
        return (
            f"{self.format}, {self.sample_rate} Hz, {self.channels} channel{'s' if self.channels > 1 else ''}{bits}: {self.channel}, "
            f"{self.used[0]:.2f} to {self.used[1]:.2f}{whole} s{left}{resampled}"
        )


def load_waveform(
    path: Source,
    offset: float = 0.0,
    duration: float | None = None,
    channel: Channel = "mean",
    notices: list[AudioWarning] | None = None,
    *,
    rate: int | None = None,
    to_rate: int = SAMPLE_RATE,
) -> Tensor:
    """(S,) float32, one channel or their mean at ``to_rate`` Hz, 16000 of the official models: the whole file, or ``duration`` seconds from ``offset``.

    ``path`` may also be an open binary file, such as an ``io.BytesIO``, which is read from its beginning, the bytes of a file, or an
    array or tensor of samples with its ``rate`` in Hz: (N,), (channels, N) or (N, channels). A crop is the
    same stretch of the whole file's waveform. Where the file ends earlier the result is shorter. ``channel`` is "mean", the
    number of one from 0, "left" or "right" of two, or "loudest": the one with the most power in the whole file.

    Whatever is no usable sound raises :class:`AudioError`. What was read but should be known of (:class:`AudioWarning`: a
    length that is not what the header says, damage, channels that cancel each other, a sound that lies above half the rate) is appended to
    ``notices``, or given to :func:`warnings.warn` where there is no such list.
    """
    waveform, report = _loaded(path, offset, duration, channel, rate, to_rate)
    _say(report.notices, path, notices)
    return waveform


def load_with_report(
    path: Source,
    offset: float = 0.0,
    duration: float | None = None,
    channel: Channel = "mean",
    rate: int | None = None,
    to_rate: int = SAMPLE_RATE,
) -> tuple[Tensor, InputReport]:
    """:func:`load_waveform`, and what was done to the sound; what should be known of it stands in the report."""
    return _loaded(path, offset, duration, channel, rate, to_rate)


def _loaded(
    path: Source, offset: float, duration: float | None, channel: Channel, rate: int | None, to_rate: int
) -> tuple[Tensor, InputReport]:
    for name, value in (("offset", offset), ("duration", 0.0 if duration is None else duration)):
        if not (isinstance(value, int | float | np.number) and math.isfinite(value) and value >= 0):
            raise AudioError(f"The {name} is a number of seconds from 0 upwards, not {value!r}.")
    _check_to_rate(to_rate)
    if duration is not None and round(duration * to_rate) < round(SHORTEST * to_rate):
        raise AudioError(f"A duration of {duration} s is shorter than one analysis window; ask for at least 0.025 s.")
    with _opened(path, rate) as sound:
        number = _number(channel, sound)
        first, last, skip, want = _span(sound.rate, to_rate, offset, duration)
        stretch = _Stretch(sound, number, first, to_rate)
        gathered = bytearray()  # which grows where it lies; a list of the parts would take as much again
        for part in _resampled(stretch.mono(last), sound.rate, to_rate):
            gathered += np.ascontiguousarray(part, np.float32).data
        waveform = np.frombuffer(gathered, np.float32)
        waveform = waveform[skip:] if want is None else waveform[skip : skip + want]
        if offset and not len(waveform):
            raise AudioError(f"{{file}} ends before the offset of {offset} s; choose an earlier one.")
        _check_length(len(waveform), to_rate, f" from {offset} s on" if offset else "")
        stretch.hear(waveform)
        said = tuple(_about(notice, path) for notice in (*_of_length(sound), *stretch.notices()))
        frames = sound.length if sound.length is not None else sound.frames
        one = "" if sound.channels == 1 else f"the mean of {sound.channels}" if number is None else f"number {number}"
        report = InputReport(
            sound.rate, to_rate, sound.channels, sound.bits, sound.format, None if frames is None else frames / sound.rate,
            (float(offset), offset + len(waveform) / to_rate), one or "as it is", said,
        )  # fmt: skip
    return torch.from_numpy(np.ascontiguousarray(waveform)), report


def waveform_blocks(
    sound: Source,
    rate: int | None = None,
    channel: Channel = "mean",
    notices: list[AudioWarning] | None = None,
    to_rate: int = SAMPLE_RATE,
) -> Iterator[Tensor]:
    """(n,) float32 each, one after the other the waveform of :func:`load_waveform`, in memory that does not grow with its length.

    ``sound`` is whatever :func:`load_waveform` takes; ``rate`` is that of an array, and means nothing to a file, which tells its own.
    :class:`AudioError` comes as soon as the place is reached that is no usable sound; notices come after the last block.
    """
    _check_to_rate(to_rate)
    with _opened(sound, rate if isinstance(sound, np.ndarray | Tensor) else None) as opened:
        stretch, count = _Stretch(opened, _number(channel, opened), 0, to_rate), 0
        for part in _resampled(stretch.mono(None), opened.rate, to_rate):
            stretch.hear(part)
            count += len(part)
            yield torch.from_numpy(np.ascontiguousarray(part))
        _check_length(count, to_rate)
        said = [*_of_length(opened), *stretch.notices()]
    _say(said, sound, notices)


def load_piece(
    path: Source,
    fraction: float,
    samples: int,
    notices: list[AudioWarning] | None = None,
    to_rate: int = SAMPLE_RATE,
) -> Tensor:
    """(at most ``samples``,) float32: a stretch of :func:`load_waveform`'s result, which begins at a fraction (0 to 1) of the
    room that a longer sound leaves."""
    with _opened(path) as sound:
        decoded = sound.frames is None and _estimate(sound) <= WHOLE
    if decoded:
        whole = load_waveform(path, notices=notices, to_rate=to_rate)
        start = int(fraction * max(0, len(whole) - samples + 1))
        return whole[start : start + samples].clone() if len(whole) > 2 * samples else whole[start : start + samples]
    room = round(info(path, [], damage=False).seconds * to_rate) - samples
    if room <= 0:
        return load_waveform(path, notices=notices, to_rate=to_rate)[:samples]
    start = int(fraction * (room + 1))
    return load_waveform(path, start / to_rate, samples / to_rate, notices=notices, to_rate=to_rate)[:samples]


def info(path: Source, notices: list[AudioWarning] | None = None, damage: bool = True) -> AudioInfo:
    """Length, rate, channels and format, and in ``notices`` (or by :func:`warnings.warn`) what should be known of the file. Any but an
    uncompressed one is decoded for that, which takes about a second for an hour at 16 kHz, and is remembered while it does not change.

    Without ``damage`` this is left out where the header is known to tell the truth: in files without loss whose end is where it
    should be. They may be damaged within; their length is right all the same."""
    key = _identity(path)
    measured = _KNOWN.get((*key, damage)) or _KNOWN.get((*key, True)) if key else None
    if measured is None:
        with _opened(path) as sound:
            if damage or sound.frames is None:
                sound.read_through()
            frames = sound.length if sound.frames is None else sound.frames
            frames = frames or 0
            _check_length(round(frames * SAMPLE_RATE / sound.rate), SAMPLE_RATE)
            known = AudioInfo(frames / sound.rate, sound.rate, sound.channels, sound.format)
            measured = _Measured(known, tuple(_of_length(sound)))
        if key:
            _KNOWN[(*key, damage)] = measured
    _say(measured.notices, path, notices)
    return measured.info


def estimated_seconds(path: Source) -> float:
    """How long a file seems to be by its header alone; infinite where that says nothing."""
    with _opened(path) as sound:
        return _estimate(sound)


def _estimate(sound: blocks.Sound) -> float:
    if sound.frames is not None:
        return sound.frames / sound.rate
    return max(sound.promised or 0, sound.guess or 0) or math.inf


def _identity(path: Source) -> tuple | None:
    if not isinstance(path, str | os.PathLike):
        return None
    try:
        status = os.stat(path)
    except (OSError, TypeError, ValueError):  # is met again, and said, when the file is opened
        return None
    return os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ino


@contextmanager
def _opened(path: Source, rate: int | None = None) -> Iterator[blocks.Sound]:
    """Errors within the context are said of the file."""
    if isinstance(path, np.ndarray | Tensor):
        yield of_array(path, rate)
        return
    if rate is not None:
        raise AudioError("Only an array needs its rate: a sound file tells its own.")
    if isinstance(path, bytes | bytearray | memoryview):
        path = io.BytesIO(path)
    _check_file(path)
    try:
        with blocks.opened(path if isinstance(path, io.IOBase) else os.path.abspath(path)) as sound:
            yield sound
    except AudioError as error:
        raise AudioError(error.message, path) from None


def _say(said: Any, path: Any, notices: list[AudioWarning] | None) -> None:
    for notice in said:
        notice = _about(notice, path)
        if notices is None:
            warnings.warn(notice, stacklevel=3)
        else:
            notices.append(notice)


def _about(notice: AudioWarning, path: Source) -> AudioWarning:
    return AudioWarning(notice.message, path, notice.promised, notice.found)


def _of_length(sound: blocks.Sound) -> Iterator[AudioWarning]:
    """What is to be said of a sound's length, as far as it is known by now."""
    frames = sound.frames if sound.length is None else sound.length
    found, promised = None if frames is None else frames / sound.rate, sound.promised
    if found is not None and promised is not None and abs(found - promised) > sound.slack:
        lies = "was cut short" if found < promised else "holds more than one stream, or its header was never finished"
        yield AudioWarning(
            f"{{file}} {lies}: its header promises {promised:.2f} s of sound, and {found:.2f} s are found, which are used.",
            None, promised, found,
        )  # fmt: skip
    elif sound.cut:
        length = "" if found is None else f"; the {found:.2f} s that are found are used"
        yield AudioWarning(f"{{file}} may be incomplete: {sound.cut}{length}.", None, None, found)
    if sound.lost:
        yield AudioWarning(
            f"{{file}} is damaged: {sound.lost:.3f} s of it cannot be decoded, and silence stands in their place.",
            None, None, found,
        )  # fmt: skip


def _number(channel: Channel, sound: blocks.Sound) -> int | None:
    """The number of the channel that is to be heard; None: their mean."""
    if channel == "mean":
        return None
    if channel == "loudest":
        power = np.zeros(sound.channels)
        for block in sound.blocks() if sound.channels > 1 else ():
            power += np.square(block, dtype=np.float64).sum(0)
        return int(power.argmax())
    if sound.channels == 2 and channel in SIDES:
        return SIDES.index(channel)
    if isinstance(channel, bool) or not isinstance(channel, int | np.integer) or not 0 <= channel < sound.channels:
        raise AudioError(
            f"{{file}} has no channel {channel!r}: choose one of its {sound.channels} from 0 on, 'mean', 'loudest', or of two 'left' or 'right'."
        )
    return int(channel)


class _Stretch:
    """The samples of a crop, one channel or their mean, and what is measured as they pass."""

    def __init__(self, sound: blocks.Sound, channel: int | None, first: int, to_rate: int) -> None:
        self.sound, self.channel, self.first, self.to_rate, self.count = sound, channel, first, to_rate, 0
        self.power, self.total, self.mean_power = np.zeros(sound.channels), 0.0, 0.0
        self.heard, self.heard_total, self.heard_power = 0, 0.0, 0.0  # of what is left at that rate

    def mono(self, last: int | None) -> Iterator[np.ndarray]:
        """(n,) float32 each."""
        for block in self.sound.blocks(self.first, last):
            mono = block.mean(1) if self.channel is None else block[:, self.channel]
            bad = np.flatnonzero(~(np.abs(mono) < LOUDEST))  # NaN is not less than anything
            if len(bad):
                what = "far beyond any sound's" if np.isfinite(mono[bad[0]]) else "not a finite number"
                place = (self.first + self.count + bad[0]) / self.sound.rate
                raise AudioError(
                    f"{{file}} has a sample that is {what}, {place:.3f} s from its start; export the sound again without "
                    "clipping or errors."
                )
            self.count += len(mono)
            self.mean_power += float(np.dot(mono, mono))
            self.total += float(mono.sum(dtype=np.float64))
            if self.channel is None and block.shape[1] > 1:
                self.power += np.einsum("nk,nk->k", block, block)
            yield mono

    def hear(self, waveform: np.ndarray) -> None:
        self.heard += len(waveform)
        self.heard_total += float(waveform.sum(dtype=np.float64))
        self.heard_power += float(np.dot(waveform, waveform))

    def notices(self) -> Iterator[AudioWarning]:
        loudest = self.power.max()
        if loudest > 0 and self.mean_power < CANCELLED * loudest:
            loss = (
                f"{-10 * math.log10(self.mean_power / loudest):.1f} dB"
                if self.mean_power > 1e-12 * loudest
                else "everything"
            )
            yield AudioWarning(
                f"The mean of the {len(self.power)} channels of {{file}} loses {loss} against the loudest of them, number "
                f"{int(self.power.argmax())}: save that one alone as a file, or name it in Python by channel={int(self.power.argmax())}."
            )
        swing = self.mean_power - self.total**2 / max(self.count, 1)  # without what is constant
        if self.sound.rate > self.to_rate and swing > 1e-9 * self.count:
            left = (self.heard_power / self.heard - (self.heard_total / self.heard) ** 2) * self.count
            if left < BEYOND * swing:
                yield AudioWarning(
                    f"Nearly all of the sound in {{file}} lies above {self.to_rate / 2000:g} kHz, where a model of {self.to_rate / 1000:g} kHz "
                    "hears nothing: slow the recording down, leave it out, or take a model of a higher rate."
                )


def _resampled(parts: Iterator[np.ndarray], rate: int, to_rate: int) -> Iterator[np.ndarray]:
    """(n,) float32 each, from blocks at another rate."""
    if rate == to_rate:
        yield from parts
        return
    import soxr

    count, made = 0, 0
    stream = soxr.ResampleStream(rate, to_rate, 1, dtype="float32", quality="HQ")
    for part in parts:
        count += len(part)
        resampled = stream.resample_chunk(np.ascontiguousarray(part))
        made += len(resampled)
        yield resampled
    if count:
        yield stream.resample_chunk(np.empty(0, np.float32), last=True)[: round(count * to_rate / rate) - made]


def _check_to_rate(to_rate: int) -> None:
    if isinstance(to_rate, bool) or not isinstance(to_rate, int | np.integer) or not 1000 <= to_rate <= 1_000_000:
        raise AudioError(f"The rate of a waveform is a whole number of Hz from 1000 to 1000000, not {to_rate!r}.")


def _check_file(path: str | os.PathLike[str] | io.IOBase) -> None:
    if isinstance(path, io.IOBase):
        if path.seek(0, os.SEEK_END) == 0:
            raise AudioError("{file} is empty (0 bytes); record, copy or download it again.", path)
        return
    if not isinstance(path, str | os.PathLike):
        raise AudioError(
            f"Something of type {type(path).__name__} is no sound; give the path of a sound file, its bytes, or an array of samples with its rate."
        )
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            open(path, "rb").close()
    except FileNotFoundError:
        raise AudioError("There is no file {file}; check the path.", path) from None
    except OSError as error:
        raise AudioError(
            f"{{file}} cannot be opened ({error.strerror}); check the path and its permissions.", path
        ) from None
    except (TypeError, ValueError) as error:  # a NUL character, for one
        raise AudioError(f"{path!r} is no path ({error}); give the path of a sound file.") from None
    if stat.S_ISDIR(status.st_mode):
        raise AudioError("{file} is a folder; give the path of a sound file in it.", path)
    if not stat.S_ISREG(status.st_mode):
        raise AudioError("{file} is no regular file; save the sound to a file first.", path)
    if status.st_size == 0:
        raise AudioError("{file} is empty (0 bytes); record, copy or download it again.", path)


def _span(rate: int, to_rate: int, offset: float, duration: float | None) -> tuple[int, int | None, int, int | None]:
    """Which samples of a file make a crop: (first, end) at the file's ``rate``, None for the file's end, and, after
    resampling these, how many samples to skip and how many to keep (None: all). The first is on a sample that both
    rates have in common, so that a crop falls on the same grid as the whole file."""
    begin, margin = round(offset * to_rate), round(MARGIN * to_rate)
    want = None if duration is None else round(duration * to_rate)
    common = math.gcd(rate, to_rate)
    steps = max(0, begin - margin) * common // to_rate
    end = None if want is None else -(-(begin + want + margin) * rate // to_rate)
    return steps * rate // common, end, begin - steps * to_rate // common, want


def _check_length(samples: int, rate: int, where: str = "") -> None:
    if not samples:
        raise AudioError("{file} contains no samples; record or export it again.")
    if samples < SHORTEST * rate:
        raise AudioError(
            f"{{file}} lasts only {1000 * samples / rate:.1f} ms{where}, less than one "
            f"analysis window of 25 ms; use a longer sound."
        )


def builtin_sounds() -> dict[str, dict[str, Any]]:
    """The sounds that come with the package, by name: title, kind, author, licence, source, seconds, and their path."""
    folder = Path(__file__).parent.parent / "sounds"
    sounds = json.loads((folder / "sounds.json").read_text(encoding="utf-8"))
    return {sound["name"]: {**sound, "path": folder / sound["file"]} for sound in sounds}
