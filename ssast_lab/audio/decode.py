"""From a sound file of nearly any kind to a waveform at 16 kHz.

Axes: S samples at 16 kHz.
"""

import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16000  # Hz
WINDOW = 400  # samples, 25 ms: what one frame of features looks at, and so the shortest sound
Source = str | os.PathLike[str] | io.IOBase  # a path, or a file that is open for reading and can be sought in

LOUDEST = 1e12  # of a sample, where 1 is full scale; the energies of one above 1e19 are infinite in float32
MARGIN = 1600  # samples at 16 kHz read on either side of a crop, for the resampler, and for decoders with a memory
BLOCK = 1 << 18  # frames decoded at a time, whatever length a header claims
PAGE = 1 << 18  # frames, more than an Ogg page of Vorbis holds: libsndfile miscounts in the last one if it starts there
# What PyAV may open: sound and films, but no playlists or pictures, which could name other files.
CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp3,mpeg,mpegts,ogg,rm,tta,w64,wav,wv"


class AudioError(ValueError):
    """A file or array that is no usable sound: the message says what is wrong, where, and what to do.

    ``file`` is the path that it is about, None for an array or an open file. The message has it quoted; :meth:`about` says the
    same of another name, for who knows the file by one.
    """

    def __init__(self, message: str, file: Any = None) -> None:
        """``{file}`` in the message stands for the file."""
        self.file = None if file is None or isinstance(file, io.IOBase) else os.fspath(file)
        self.message = message
        super().__init__(message, self.file)

    def __str__(self) -> str:
        return self.about("The sound" if self.file is None else repr(self.file))

    def about(self, name: str) -> str:
        return self.message.replace("{file}", name)


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file's header says."""

    seconds: float
    sample_rate: int  # Hz
    channels: int
    format: str  # container and codec, "WAV, Signed 16 bit PCM"


def load_waveform(path: Source, offset: float = 0.0, duration: float | None = None) -> Tensor:
    """(S,) float32, the mean of the channels at 16 kHz: the whole file, or ``duration`` seconds from ``offset``.

    ``path`` may also be an open binary file, such as an ``io.BytesIO``, which is read from its beginning. A crop is the
    same stretch of the whole file's waveform, but only it is read. Where the file ends earlier the result is shorter.
    Whatever is no usable sound raises :class:`AudioError`.
    """
    for name, value in (("offset", offset), ("duration", 0.0 if duration is None else duration)):
        if not (isinstance(value, int | float | np.number) and math.isfinite(value) and value >= 0):
            raise AudioError(f"The {name} is a number of seconds from 0 upwards, not {value!r}.")
    if duration is not None and round(duration * SAMPLE_RATE) < WINDOW:
        raise AudioError(f"A duration of {duration} s is shorter than one analysis window; ask for at least 0.025 s.")

    mono, rate = _decode(path, lambda reader, path: reader(path, offset, duration))
    first, _, skip, want = _span(rate, offset, duration)
    bad = np.flatnonzero(~(np.abs(mono) < LOUDEST))  # NaN is not less than anything
    if len(bad):
        what = "far beyond any sound's" if np.isfinite(mono[bad[0]]) else "not a finite number"
        raise AudioError(
            f"{{file}} has a sample that is {what}, {(first + bad[0]) / rate:.3f} s "
            f"from its start; export the sound again without clipping or errors.",
            path,
        )
    if rate != SAMPLE_RATE and len(mono):
        import soxr

        length = round(len(mono) * SAMPLE_RATE / rate)
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")[:length]
    mono = mono[skip:] if want is None else mono[skip : skip + want]
    if offset and not len(mono):
        raise AudioError(f"{{file}} ends before the offset of {offset} s; choose an earlier one.", path)
    _check_length(path, len(mono), f" from {offset} s on" if offset else "")
    return torch.from_numpy(np.ascontiguousarray(mono))


def info(path: Source) -> AudioInfo:
    """Length, rate, channels and format from the header alone, unless the header does not tell the length."""
    header = _decode(path, lambda reader, path: _HEADERS[reader](path))
    _check_length(path, round(header.seconds * SAMPLE_RATE))
    return header


def _decode(path: Source, read: Callable[[Callable, Any], Any]) -> Any:
    """What ``read`` gets out of a file through the first of the two libraries that manages it to the end. A part read
    before an error is dropped: the second library starts again from the beginning."""
    _check_file(path)
    reasons = []
    for name, reader in (("soundfile", _read_soundfile), ("PyAV", _read_av)):
        try:
            if isinstance(path, io.IOBase):
                path.seek(0)
                return read(reader, path)
            return read(reader, os.path.abspath(path))
        except AudioError as error:
            raise AudioError(f"{{file}} {error}", path) from None
        except Exception as error:  # of many types, some of them plain RuntimeError, IndexError or ValueError
            reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
            reason = " ".join(reason.replace(". ", ", ").split()).rstrip(" .")
            reasons.append(f"{name}: {reason or type(error).__name__}")
    raise AudioError(
        f"{{file}} cannot be decoded as sound ({'; '.join(reasons)}); check that it is a complete "
        f"sound file, or convert it to WAV or FLAC.",
        path,
    )


def _check_file(path: Source) -> None:
    if isinstance(path, io.IOBase):
        if path.seek(0, os.SEEK_END) == 0:
            raise AudioError("{file} is empty (0 bytes); record, copy or download it again.", path)
        return
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


def _open_soundfile(path: str | io.IOBase) -> Any:
    import soundfile

    sound = soundfile.SoundFile(path)
    if sound.format == "RAW":  # no header at all: taken for sound because of a name such as "noise.vox"
        sound.close()
        raise EOFError("no header")
    return sound


def _tells_length(sound: Any, path: str | io.IOBase) -> bool:
    """Whether a file says how long it is. Otherwise libsndfile multiplies the bit rate at an MP3's beginning with its size,
    or says 2^63 - 1 for a FLAC that was written into a pipe."""
    if sound.format != "MP3":
        return sound.frames < 2**63 - 1
    with nullcontext(path) if isinstance(path, io.IOBase) else open(path, "rb") as file:
        before = file.tell()
        file.seek(0)
        head = file.read(10)
        if head[:3] == b"ID3":  # a tag, as long as four times seven bits say
            file.seek(10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0))))
        start = head + file.read(1500)  # the first frame, which holds the number of all
        file.seek(before)
    return b"Xing" in start or b"Info" in start


def _read_soundfile(path: str | io.IOBase, offset: float, duration: float | None) -> tuple[np.ndarray, int]:
    """(mono samples of the span, sample rate)."""
    with _open_soundfile(path) as sound:
        rate, told = _check_rate(sound.samplerate), _tells_length(sound, path)
        first, last, _, _ = _span(rate, offset, duration)
        if not told and (last is None or last > sound.frames):
            raise EOFError("the header does not tell the length")
        first, last = min(first, sound.frames), sound.frames if last is None else min(last, sound.frames)
        if first:
            near_end = sound.subtype == "VORBIS" and sound.frames - first < PAGE
            run_up = min(first, PAGE) if near_end else 0
            sound.seek(first - run_up)
            sound.read(run_up)
        parts, missing = [], last - first
        while missing:
            part = sound.read(min(BLOCK, missing), dtype="float32", always_2d=True)
            if not len(part):
                raise EOFError(f"the sound ends {missing} frames before its header says")
            parts.append(part.mean(1))
            missing -= len(part)
    return np.concatenate(parts or [np.empty(0, np.float32)]), rate


def _read_av(path: str | io.IOBase, offset: float, duration: float | None) -> tuple[np.ndarray, int]:
    """(mono samples of the span, sample rate)."""
    with _open_av(path) as container:
        import av

        stream = container.streams.audio[0]
        rate = _check_rate(stream.rate)
        first, last, _, _ = _span(rate, offset, duration)
        position: int | None = 0
        start = stream.start_time or 0
        if first > 10 * rate and stream.time_base == Fraction(1, rate):  # only there do time stamps count samples
            container.seek(start + first - rate, stream=stream)  # one second early: decoders need a run-up
            position = None
        to_float, parts = av.AudioResampler(format="fltp"), []
        for frame in container.decode(stream):
            if position is None:
                position = frame.pts - start
            for piece in to_float.resample(frame):
                mono = piece.to_ndarray().mean(0)
                parts.append(mono[max(0, first - position) : None if last is None else max(0, last - position)])
                position += len(mono)
            if last is not None and position >= last:
                break
        promised = _promised(container)
        if promised and position is not None:
            wanted = promised if last is None else min(promised, last / rate)
            if position / rate < wanted - 0.5:
                raise AudioError(
                    f"is truncated: its header promises {promised:.2f} s of sound, but only "
                    f"{position / rate:.2f} s can be decoded; copy or download it again."
                )
    return np.concatenate(parts or [np.empty(0, np.float32)]), rate


def _header_soundfile(path: str | io.IOBase) -> AudioInfo:
    with _open_soundfile(path) as sound:
        rate = _check_rate(sound.samplerate)
        if not _tells_length(sound, path):
            raise EOFError("the header does not tell the length")
        return AudioInfo(sound.frames / rate, rate, sound.channels, f"{sound.format}, {sound.subtype_info}")


def _header_av(path: str | io.IOBase) -> AudioInfo:
    with _open_av(path) as container:
        stream = container.streams.audio[0]
        rate, channels = _check_rate(stream.rate), stream.channels
        kind = f"{container.format.name.split(',')[0].upper()}, {stream.codec_context.codec.long_name}"
        promised = _promised(container)
    if promised:
        return AudioInfo(promised, rate, channels, kind)
    if isinstance(path, io.IOBase):
        path.seek(0)
    return AudioInfo(len(_read_av(path, 0.0, None)[0]) / rate, rate, channels, kind)


def _promised(container: Any) -> float | None:
    """The seconds of sound that a header promises, where it can be trusted: other durations are guesses."""
    name, stream = container.format.name, container.streams.audio[0]
    if name.startswith(("mov", "flac")) and stream.duration:
        return float(stream.duration * stream.time_base)
    if name.startswith("matroska") and container.duration and len(container.streams) == 1:  # else it may be the film's
        return container.duration / 1e6  # microseconds
    return None


_HEADERS = {_read_soundfile: _header_soundfile, _read_av: _header_av}


@contextmanager
def _open_av(path: str | io.IOBase) -> Iterator[Any]:
    import av

    av.logging.set_level(av.logging.PANIC)  # libav would write its complaints to stderr; ours are exceptions
    # Opened here, under no name: libav takes "a:b" for a protocol and anything called "noise.gsm" for sound.
    opened = (
        nullcontext(path)
        if isinstance(path, io.IOBase)
        else os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), "rb")
    )
    with opened as file, av.open(file, options={"format_whitelist": CONTAINERS}) as container:
        if not container.streams.audio:
            raise AudioError("has no audio stream; choose a file with sound in it.")
        yield container


def _span(rate: int, offset: float, duration: float | None) -> tuple[int, int | None, int, int | None]:
    """Which samples of a file make a crop: (first, end) at the file's ``rate``, None for the file's end, and, after
    resampling these, how many samples to skip and how many to keep (None: all). The first is on a sample that both
    rates have in common, so that a crop falls on the same 16 kHz grid as the whole file."""
    begin = round(offset * SAMPLE_RATE)
    want = None if duration is None else round(duration * SAMPLE_RATE)
    common = math.gcd(rate, SAMPLE_RATE)
    steps = max(0, begin - MARGIN) * common // SAMPLE_RATE
    end = None if want is None else -(-(begin + want + MARGIN) * rate // SAMPLE_RATE)
    return steps * rate // common, end, begin - steps * SAMPLE_RATE // common, want


def _check_rate(rate: int) -> int:
    if not 1000 <= rate <= 1_000_000:
        raise AudioError(f"has a sample rate of {rate} Hz, which is no sound's; export it again with a common rate.")
    return rate


def _check_length(path: Source, samples: int, where: str = "") -> None:
    if not samples:
        raise AudioError("{file} contains no samples; record or export it again.", path)
    if samples < WINDOW:
        raise AudioError(
            f"{{file}} lasts only {1000 * samples / SAMPLE_RATE:.1f} ms{where}, less than one "
            f"analysis window of 25 ms; use a longer sound.",
            path,
        )


def builtin_sounds() -> dict[str, dict[str, Any]]:
    """The sounds that come with the package, by name: title, kind, author, licence, source, seconds, and their path."""
    folder = Path(__file__).parent.parent / "sounds"
    sounds = json.loads((folder / "sounds.json").read_text(encoding="utf-8"))
    return {sound["name"]: {**sound, "path": folder / sound["file"]} for sound in sounds}
