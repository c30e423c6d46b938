"""From a sound file to the model's input and back: decode, resample, Kaldi log-mel, normalise; log-mel to sound.

Axes: B batch, S samples at 16 kHz, T frames of 25 ms every 10 ms, F mel bins.
"""

import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssast_lab.config import AudioConfig
from ssast_lab.patches import beside

SAMPLE_RATE = 16000  # Hz
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
FFT = 512  # the window is zero-padded to this many samples
PREEMPHASIS = 0.97
OFFICIAL = AudioConfig()
Source = str | os.PathLike[str] | io.IOBase  # a path, or a file that is open for reading and can be sought in
EPSILON = torch.finfo(torch.float32).eps  # the least mel energy: silence is log(EPSILON) = -15.94

LOUDEST = 1e12  # of a sample, where 1 is full scale; the energies of one above 1e19 are infinite in float32
MARGIN = 1600  # samples at 16 kHz read on either side of a crop, for the resampler, and for decoders with a memory
BLOCK = 1 << 18  # frames decoded at a time, whatever length a header claims
PAGE = 1 << 18  # frames, more than an Ogg page of Vorbis holds: libsndfile miscounts in the last one if it starts there
CHUNK = 512  # spectrogram frames computed at a time on a CPU: their spectra, 1 MB, stay in its cache
# What PyAV may open: sound and films, but no playlists or pictures, which could name other files.
CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp3,mpeg,mpegts,ogg,rm,tta,w64,wav,wv"


class AudioError(ValueError):
    """Something that is no usable sound: the message says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file's header says."""

    seconds: float
    sample_rate: int  # Hz
    channels: int
    format: str  # container and codec, "WAV, Signed 16 bit PCM"


# --- decoding -----------------------------------------------------------------------------------------------------


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
            f"{_quote(path)} has a sample that is {what}, {(first + bad[0]) / rate:.3f} s "
            f"from its start; export the sound again without clipping or errors."
        )
    if rate != SAMPLE_RATE and len(mono):
        import soxr

        length = round(len(mono) * SAMPLE_RATE / rate)
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")[:length]
    mono = mono[skip:] if want is None else mono[skip : skip + want]
    if offset and not len(mono):
        raise AudioError(f"{_quote(path)} ends before the offset of {offset} s; choose an earlier one.")
    _check_length(path, len(mono), f" from {offset} s on" if offset else "")
    return torch.from_numpy(np.ascontiguousarray(mono))


def info(path: Source) -> AudioInfo:
    """Length, rate, channels and format from the header alone, unless the header does not tell the length."""
    found = _decode(path, lambda reader, path: _HEADERS[reader](path))
    _check_length(path, round(found.seconds * SAMPLE_RATE))
    return found


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
            raise AudioError(f"{_quote(path)} {error}") from None
        except Exception as error:  # of many types, some of them plain RuntimeError, IndexError or ValueError
            reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
            reason = " ".join(reason.replace(". ", ", ").split()).rstrip(" .")
            reasons.append(f"{name}: {reason or type(error).__name__}")
    raise AudioError(
        f"{_quote(path)} cannot be decoded as sound ({'; '.join(reasons)}); check that it is a complete "
        f"sound file, or convert it to WAV or FLAC."
    )


def _check_file(path: Source) -> None:
    if isinstance(path, io.IOBase):
        if path.seek(0, os.SEEK_END) == 0:
            raise AudioError(f"{_quote(path)} is empty (0 bytes); record, copy or download it again.")
        return
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            open(path, "rb").close()
    except FileNotFoundError:
        raise AudioError(f"There is no file {_quote(path)}; check the path.") from None
    except OSError as error:
        raise AudioError(
            f"{_quote(path)} cannot be opened ({error.strerror}); check the path and its permissions."
        ) from None
    except (TypeError, ValueError) as error:  # a NUL character, for one
        raise AudioError(f"{_quote(path)} is no path ({error}); give the path of a sound file.") from None
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{_quote(path)} is a folder; give the path of a sound file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{_quote(path)} is no regular file; save the sound to a file first.")
    if status.st_size == 0:
        raise AudioError(f"{_quote(path)} is empty (0 bytes); record, copy or download it again.")


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
            run_up = min(first, PAGE) if sound.subtype == "VORBIS" else 0
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
        raise AudioError(f"{_quote(path)} contains no samples; record or export it again.")
    if samples < WINDOW:
        raise AudioError(
            f"{_quote(path)} lasts only {1000 * samples / SAMPLE_RATE:.1f} ms{where}, less than one "
            f"analysis window of 25 ms; use a longer sound."
        )


def _quote(path: Any) -> str:
    if isinstance(path, io.IOBase):
        return "The sound"
    return repr(os.fspath(path) if isinstance(path, os.PathLike) else path)


def builtin_sounds() -> dict[str, dict[str, Any]]:
    """The sounds that come with the package, by name: title, kind, author, licence, source, seconds, and their path."""
    folder = Path(__file__).parent / "sounds"
    sounds = json.loads((folder / "sounds.json").read_text(encoding="utf-8"))
    return {sound["name"]: {**sound, "path": folder / sound["file"]} for sound in sounds}


# --- log-mel features ---------------------------------------------------------------------------------------------


def samples_of(frames: int) -> int:
    """How many samples so many frames look at: the least for which :func:`frames_of` gives them."""
    return WINDOW + (frames - 1) * HOP


def frames_of(samples: int) -> int:
    """T, the number of whole analysis windows in so many samples (Kaldi's snip_edges)."""
    return max(0, 1 + (samples - WINDOW) // HOP)


@lru_cache(maxsize=8)
def _window(device: torch.device) -> Tensor:
    """(400,) symmetric Hann."""
    with torch.inference_mode(False):  # a tensor kept from inference mode could not be used outside it
        return torch.hann_window(WINDOW, periodic=False, device=device)


@lru_cache(maxsize=8)
def _mel_filters(mel_bins: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(257, F): triangles on the HTK mel scale from 20 to 8000 Hz; the FFT bin at 8000 Hz counts for none.

    Computed in float32 step by step as torchaudio does: at the foot of a filter that rounding is all that is left, and
    beside a pure tone it would show.
    """
    with torch.inference_mode(False):
        low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (20.0, SAMPLE_RATE / 2))
        step = (high - low) / (mel_bins + 1)
        bins = torch.arange(mel_bins).unsqueeze(1)
        left, peak, right = low + bins * step, low + (bins + 1.0) * step, low + (bins + 2.0) * step
        mel = 1127.0 * (1.0 + SAMPLE_RATE / FFT * torch.arange(FFT / 2) / 700.0).log()
        filters = torch.minimum((mel - left) / (peak - left), (right - mel) / (right - peak)).clamp(min=0)
        return torch.nn.functional.pad(filters, (0, 1)).T.to(device, dtype).contiguous()


def _product_type(device: torch.device) -> torch.dtype:
    """The type in which the mel energies are summed: float64 where float32 products may be rounded to TF32 or bfloat16,
    which training often allows and these sums, compared with an independent reference, do not bear."""
    if device.type == "cpu":
        settings = (torch.backends, torch.backends.mkldnn, getattr(torch.backends.mkldnn, "matmul", None))
        exact = all(getattr(s, "fp32_precision", "none") in ("none", "ieee") for s in settings)
        return torch.float32 if exact else torch.float64
    return torch.float64 if device.type == "cuda" else torch.float32


@torch.no_grad()
def kaldi_fbank(waveforms: Tensor, mel_bins: int = 128) -> Tensor:
    """(B, S) -> (B, T, F) or (S,) -> (T, F) float32: log-mel energies as Kaldi computes them with a Hann window and no
    dither, on the waveforms' device. Per frame: minus its mean, pre-emphasis, window, power spectrum, mel filters, log.

    Every step is torchaudio's own arithmetic in its order, batched: in the quiet bands beside a pure tone the energies
    are float32 rounding errors, which are only the same if the operations are.
    """
    waveforms = torch.as_tensor(waveforms).float()
    samples = waveforms.shape[-1] if waveforms.ndim in (1, 2) else 0
    if samples < WINDOW:
        raise AudioError(
            f"Log-mel features need waveforms (S,) or (B, S) of at least {WINDOW} samples, "
            f"not the shape {tuple(waveforms.shape)}."
        )
    device = waveforms.device
    window, exact = _window(device), _product_type(device)
    filters = _mel_filters(mel_bins, device, exact)
    windows = torch.atleast_2d(waveforms).unfold(-1, WINDOW, HOP)  # (B, T, 400), a view
    clips, frames, _ = windows.shape
    energies = torch.empty(clips, frames, mel_bins, device=device)
    # On a CPU few clips, or a part of one, at a time; elsewhere all at once.
    long = min(CHUNK, frames) if device.type == "cpu" else frames
    many = min(CHUNK // long, clips) if device.type == "cpu" else clips
    padded = torch.zeros(many, long, FFT, device=device)
    with torch.autocast(device.type, enabled=False):
        for clip in range(0, clips, many):
            for frame in range(0, frames, long):
                here = slice(clip, clip + many), slice(frame, frame + long)
                x = windows[here] - windows[here].mean(-1, keepdim=True)
                y = padded[: x.shape[0], : x.shape[1]]
                # Product and sum apart, because fused into one step the product would not be rounded.
                torch.mul(x[..., :-1], -PREEMPHASIS, out=y[..., 1:WINDOW]).add_(x[..., 1:])
                torch.mul(x[..., 0], -PREEMPHASIS, out=y[..., 0]).add_(x[..., 0])
                y[..., :WINDOW] *= window
                squares = torch.view_as_real(torch.fft.rfft(y)).square_()  # abs() would take four times as long
                power = squares[..., 0] + squares[..., 1]
                energies[here] = (power.to(exact) @ filters).clamp_(min=EPSILON).log_()
    return energies if waveforms.ndim == 2 else energies[0]


def log_mel(
    waveform: Tensor,
    config: AudioConfig = OFFICIAL,
    frames: int | None = None,
    lengths: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """(S,) -> (T, F) or (B, S) -> (B, T, F): the model's input, ``(fbank - mean) / (2 * std)``, of the waveform without
    its mean.

    With ``frames`` it is cut or padded at the end to that many. ``lengths`` (B,) says how many samples of a padded
    batch are each clip's own. As in the official loader, padding is 0 before it is normalised, so 0.467 afterwards.
    """
    waveform = torch.as_tensor(waveform).float()
    samples = waveform.shape[-1]
    if lengths is None:
        waveform = waveform - waveform.mean(-1, keepdim=True)
    else:
        lengths = torch.as_tensor(lengths)
        if waveform.ndim != 2 or lengths.shape != waveform.shape[:1]:
            raise AudioError(
                f"Lengths {tuple(lengths.shape)} go with a batch (B, S) of as many waveforms, "
                f"not with the shape {tuple(waveform.shape)}."
            )
        if not WINDOW <= int(lengths.min()) <= int(lengths.max()) <= samples:
            raise AudioError(
                f"The clips of this batch have from {WINDOW} to {samples} samples of their own, not {lengths.tolist()}."
            )
        lengths = beside(lengths, waveform).unsqueeze(1)
        own = torch.arange(samples, device=waveform.device) < lengths
        waveform = waveform - waveform.where(own, 0).sum(-1, keepdim=True) / lengths
    if frames is not None:  # compute no frame that would be cut
        waveform = waveform[..., : WINDOW + max(0, frames - 1) * HOP]
    fbank = kaldi_fbank(waveform, config.mel_bins)
    if lengths is not None:
        frame = torch.arange(fbank.shape[1], device=fbank.device)
        fbank = fbank.where((frame < 1 + (lengths - WINDOW) // HOP).unsqueeze(-1), 0)
    if frames is not None:
        fbank = torch.nn.functional.pad(fbank, (0, 0, 0, frames - fbank.shape[-2]))
    return (fbank - config.mean) / (2 * config.std)


# --- and back -----------------------------------------------------------------------------------------------------


def denormalise(log_mel: Tensor, config: AudioConfig = OFFICIAL) -> Tensor:
    """The inverse of the normalisation: the model's input (..., T, F) -> Kaldi log-mel energies (..., T, F)."""
    return log_mel * (2 * config.std) + config.mean


@lru_cache(maxsize=4)
def _inverse_filters(mel_bins: int) -> Tensor:
    """(F, 257): the pseudo-inverse of the mel filters, which are too many at low frequencies to be independent."""
    with torch.inference_mode(False):
        return torch.linalg.pinv(_mel_filters(mel_bins, torch.device("cpu"), torch.float64)).float()


@torch.no_grad()
def mel_to_waveform(fbank: Tensor, iterations: int = 32) -> Tensor:
    """(T, F) Kaldi log-mel energies -> (S,) sound with those energies, on the CPU. The phases, which the energies do
    not keep, are found by Griffin and Lim's iteration; what is louder than full scale is scaled down to it."""
    from torchaudio.functional import deemphasis, griffinlim

    power = (fbank.detach().float().cpu().exp() @ _inverse_filters(fbank.shape[-1])).clamp(min=0)
    # Griffin-Lim's frame t is centred on sample 160 t, Kaldi's on 160 t + 200: two more frames a side make room.
    magnitude = torch.nn.functional.pad(power.sqrt().T[None], (2, 2), mode="replicate")[0]
    sound = griffinlim(
        magnitude,
        window=_window(torch.device("cpu")),
        n_fft=FFT,
        hop_length=HOP,
        win_length=WINDOW,
        power=1.0,
        n_iter=iterations,
        momentum=0.9,
        length=None,
        rand_init=False,
    )
    start = 2 * HOP - WINDOW // 2
    sound = deemphasis(sound, PREEMPHASIS)[start : start + WINDOW + (len(fbank) - 1) * HOP]
    return sound / sound.abs().max().clamp(min=1.0)
