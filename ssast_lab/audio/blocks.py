"""A sound file as blocks of samples, one after the other, as they were recorded.

Axes: N samples at the file's rate, K channels.

Uncompressed files are read by libsndfile, from any sample on. All others are decoded by libav from their beginning, whatever
part is wanted: a decoder remembers what came before, and the same samples come out only if the same bytes went in. Without
loss, and with a header that tells the truth, its end is looked at and then it too is read from the middle.
"""

import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from ssast_lab.audio import headers
from ssast_lab.audio.errors import AudioError

BLOCK = 1 << 18  # samples decoded at a time, whatever length a header claims
JITTER = 2048  # samples by which time stamps may be off: those of Vorbis in Ogg and of films are
LONGEST_GAP = 600  # seconds of silence that stand for a damaged place; a longer one is a time stamp that is wrong
# What libav may open: sound and films, but no playlists or pictures, which could name other files.
CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp3,mpeg,mpegts,ogg,rm,tta,w64,wav,wv"
LOSSLESS = ("flac", "alac", "pcm_")
CHECKED = (
    "flac",
    "wavpack",
    "tta",
    "ac3",
    "eac3",
)  # whose frames carry checksums, which libav looks at only if asked to
MEMORYLESS = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # encodings of libsndfile in which every sample stands alone
SIZED = ("mp2", "ac3", "eac3")
STEADY = (
    "ac3",
    "eac3",
)  # whose frames are equally long, and whose time stamps may go wrong by a part of a sample at each
STRAY = 8  # packets of another rate or other channels, up to which they are taken for damage
TAGS = (b"ID3", b"TAG", b"APE")  # what may stand between joined streams and is no damage


@dataclass
class Sound:
    """A sound file that is open. What is found while it is read stands here once the blocks have come to its end."""

    rate: int  # Hz
    channels: int  # K
    format: str  # container and codec, "WAV, Signed 16 bit PCM"
    promised: float | None  # seconds, as the header tells; None: it does not, or only guesses
    slack: float  # seconds by which the header may differ from what is decoded
    frames: int | None  # N, where it is known without decoding
    reader: Any
    lost: float = 0.0  # seconds of damage that were filled with silence
    cut: str = ""  # why it seems to end early, where the header promises nothing
    guess: float | None = None  # seconds, for an estimate only
    length: int | None = None  # N, once the end has been seen
    bits: int | None = None  # of a sample, where each has a number of its own

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """(n, K) float32 each, together the samples from ``first`` to ``last`` (None: the end) as far as there are any."""
        return self.reader(self, first, last)

    def read_through(self) -> None:
        """To its end without hearing any of it, and all of it where it must be decoded, so that what is wrong with it is found."""
        known, self.frames = self.frames, None  # else it is sought in
        for _ in self.blocks(first=sys.maxsize):
            pass
        self.frames = known


@contextmanager
def opened(path: str | io.IOBase) -> Iterator[Sound]:
    """Raises :class:`AudioError`, with ``{file}`` for the path, for what no library can decode."""
    with ExitStack() as stack:
        file = path if isinstance(path, io.IOBase) else stack.enter_context(open(path, "rb"))
        kind = headers.kind(file)
        libraries = [("PyAV", _open_av), ("soundfile", _open_soundfile)]
        if headers.data_of(file) is not None:
            libraries.reverse()
        elif (
            kind and kind != "OGG"
        ):  # libsndfile reads these in pieces only with holes, and its decoder of MP3 writes to stderr
            libraries.pop()
        reasons = []
        for name, library in libraries:
            file.seek(0)
            inner = ExitStack()
            try:
                sound = library(file, inner)
                stack.enter_context(inner)
                break
            except AudioError:
                inner.close()
                raise
            except Exception as error:  # of many types, some of them plain RuntimeError, IndexError or ValueError
                inner.close()
                reasons.append(f"{name}: {_reason(error)}")
        else:
            raise _undecodable(file, "; ".join(reasons))
        yield sound


def _undecodable(file: io.IOBase, reasons: str) -> AudioError:
    seems = headers.looks_like(file)
    if seems:
        return AudioError(
            f"{{file}} cannot be decoded as sound: it is not a sound (it looks like {seems}); choose another file."
        )
    return AudioError(
        f"{{file}} cannot be decoded as sound ({reasons}); check that it is a complete sound file, or convert it to WAV or FLAC."
    )


def _reason(error: Exception) -> str:
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(reason.replace(". ", ", ").split()).rstrip(" .") or type(error).__name__


def _check_rate(rate: int) -> int:
    if not rate:  # what was taken for a sound has none
        raise ValueError("it has no sample rate")
    if not 1000 <= rate <= 1_000_000:
        raise AudioError(
            f"{{file}} has a sample rate of {rate} Hz, which is no sound's; export it again with a common rate."
        )
    return rate


# --- libsndfile ---------------------------------------------------------------------------------------------------


def _open_soundfile(file: io.IOBase, stack: ExitStack) -> Sound:
    import soundfile

    data = headers.data_of(file)
    file.seek(0)
    handle = stack.enter_context(soundfile.SoundFile(file))
    if handle.format == "RAW":  # no header at all: taken for sound because of a name such as "noise.vox"
        raise EOFError("no header")
    memoryless = handle.subtype.startswith(MEMORYLESS)
    if data is not None and not memoryless:
        raise EOFError("a codec with a memory")  # libav reads these in order
    rate, channels, name = _check_rate(handle.samplerate), handle.channels, f"{handle.format}, {handle.subtype_info}"
    promised = None
    if data is not None and memoryless:
        width = channels * _bytes(handle.subtype)
        promised = data.promised and data.promised // width / rate
        if data.present // width > handle.frames:  # it took the header's word for it
            order = "LITTLE" if handle.endian == "FILE" and handle.format != "AIFF" else handle.endian
            raw = _Part(file, data.first, data.present // width * width)
            handle = stack.enter_context(soundfile.SoundFile(raw, "r", rate, channels, handle.subtype, order, "RAW"))
    sound = Sound(rate, channels, name, promised, 0.5 / rate, handle.frames, _soundfile_blocks(handle))
    sound.bits = None if not memoryless and handle.format != "FLAC" else 8 * _bytes(handle.subtype)
    if data is not None and data.promised is None and handle.format in ("WAV", "WAVEX", "AIFF", "RF64", "RAW"):
        sound.cut = "its header tells no length, as if the recorder had been stopped"
    return sound


def _bytes(subtype: str) -> int:
    return {"FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1}.get(subtype) or int(subtype[-2:].lstrip("SU_")) // 8 or 1


class _Part(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, file: io.IOBase, first: int, length: int) -> None:
        self.file, self.first, self.length, self.place = file, first, length, 0

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self.place = place + (0, self.place, self.length)[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.first + self.place)
        content = self.file.read(max(0, min(len(buffer), self.length - self.place)))
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _soundfile_blocks(handle: Any) -> Any:
    def blocks(sound: Sound, first: int, last: int | None) -> Iterator[np.ndarray]:
        end = handle.frames if last is None else min(last, handle.frames)
        position = handle.seek(min(first, handle.frames))
        while position < end:
            try:
                part = handle.read(min(BLOCK, end - position), dtype="float32", always_2d=True)
            except RuntimeError as error:  # libsndfile's own
                sound.cut = f"soundfile: {_reason(error)}"
                break
            position += len(part)
            if not len(part):
                break
            yield part
        if last is None or position < last:
            sound.length = position

    return blocks


# --- libav --------------------------------------------------------------------------------------------------------


def _open_av(file: io.IOBase, stack: ExitStack) -> Sound:
    import av

    av.logging.set_level(av.logging.PANIC)  # libav would write its complaints to stderr; ours are exceptions
    kind = headers.kind(file)
    first = headers.xing(file) if kind in ("MP3", "") else None
    if (
        first and first.start
    ):  # libav looks for it at the beginning only, and without it hears what the coder put before the sound
        file = _Part(file, first.start, file.seek(0, io.SEEK_END) - first.start)
    xing = first and first.frames
    bits = headers.flac_bits(file) if kind == "FLAC" else None
    data = headers.data_of(file)
    cut = "its last page is missing" if kind == "OGG" and not headers.ogg_ends(file) else ""
    if data is not None and data.promised is not None and data.present < data.promised:
        cut = f"{data.promised - data.present} of the {data.promised} bytes that its header promises are missing"

    def reopen() -> Any:
        """The file opened anew, under no name: libav takes "a:b" for a protocol and anything called "noise.gsm" for sound."""
        file.seek(0)
        # Titles may be in other encodings than UTF-8, which releases before 19 ask about.
        more: Any = dict(metadata_errors="replace") if int(av.__version__.partition(".")[0]) < 19 else {}
        container = stack.enter_context(av.open(file, options={"format_whitelist": CONTAINERS}, **more))
        if not container.streams.audio:
            raise AudioError("{file} has no audio stream; choose a file with sound in it.")
        return container

    def missing() -> int:
        place = file.tell()
        again = reopen()
        there = sum(1 for packet in again.demux(again.streams.audio[0]) if packet.size)
        file.seek(place)
        return max(0, (xing or 0) - there)

    container = reopen()
    stream = container.streams.audio[0]
    rate = _check_rate(stream.rate)
    name = f"{container.format.name.split(',')[0].upper()}, {stream.codec_context.codec.long_name}"
    promised, slack = _promised(container, xing)
    lossless = stream.codec_context.name.startswith(LOSSLESS) and stream.time_base == Fraction(1, rate)
    jitter = 0 if kind == "FLAC" else round(0.003 * rate) if container.format.name.startswith("matroska") else JITTER
    reader = _Decoder(container, reopen, jitter, missing if xing else None)
    sound = Sound(rate, stream.channels, name, promised, slack, None, reader)
    sound.guess = container.duration / 1e6 if container.duration else None
    sound.cut = cut
    plain = re.match(r"pcm_[a-z]+(\d+)", stream.codec_context.name)
    sound.bits = int(plain[1]) if plain else bits
    if lossless and promised:
        sound.frames = reader.checked(sound, round(promised * rate))
    return sound


def _promised(container: Any, xing: int | None) -> tuple[float | None, float]:
    """The seconds of sound that a header promises, where it can be trusted (other durations are guesses), and how far it may
    be from what is decoded."""
    name, stream = container.format.name, container.streams.audio[0]
    if name.startswith("mp3"):
        return xing and xing * (
            1152 if stream.rate >= 32000 else 576
        ) / stream.rate, 0.15  # what the coder adds at both ends
    if name.startswith(("mov", "flac")) and stream.duration:
        return float(stream.duration * stream.time_base), 0.0 if name.startswith("flac") else 0.15
    if (
        name.startswith(("matroska", "asf")) and container.duration and len(container.streams) == 1
    ):  # else perhaps the film's
        return container.duration / 1e6, 0.5  # microseconds
    return None, 0.0


class _Decoder:
    """Decodes packet by packet, so that a damaged one costs no more than itself. Where the time stamps jump ahead, what lay
    between was lost, and silence stands for it, so that whatever follows keeps its time."""

    def __init__(self, container: Any, reopen: Any, jitter: int, missing: Any = None) -> None:
        """``jitter`` is the number of samples by which time stamps may be off; ``missing`` counts the frames that
        an MP3 should have and has not."""
        self.container, self.reopen, self.jitter, self.missing, self.fresh = container, reopen, jitter, missing, True

    def _swallowed(self, size: int) -> int:
        """How many frames of an MP3 a damaged packet of so many bytes holds beside its first: as many as are missing in all,
        if so many fit. Time stamps only count packets."""
        missing, self.missing = self.missing() if self.missing else 0, None
        return min(missing, round(size / self.smallest) - 1)

    def checked(self, sound: Sound, frames: int) -> int | None:
        """``frames``, if the sound ends there indeed; else None: it must be decoded to know."""
        position = None
        stream = self.container.streams.audio[0]
        if frames > 3 * sound.rate:
            try:
                self.container.seek((stream.start_time or 0) + frames - sound.rate, stream=stream)
                for frame in self._frames(stream):
                    if not isinstance(frame, int):
                        position = frame.pts - (stream.start_time or 0) + frame.samples
            except Exception:  # what cannot be sought in is decoded from the beginning
                position = None
        self.container, self.fresh = self.reopen(), True
        return frames if position == frames else None

    def __call__(self, sound: Sound, first: int, last: int | None) -> Iterator[np.ndarray]:
        if not self.fresh:
            self.container = self.reopen()
        self.fresh = False
        stream, end = self.container.streams.audio[0], 0
        start = first if sound.frames is not None and first > 10 * sound.rate else 0
        if start:
            early = start - sound.rate  # it lands on a packet, somewhere before
            self.container.seek((stream.start_time or 0) + early, stream=stream)
        sound.lost = 0.0
        for position, count, samples in self._aligned(sound, stream, start):
            if last is not None and position >= last:
                return
            end = position + count
            if end > first:
                yield samples()[max(0, first - position) : None if last is None else last - position]
        sound.length = end

    def _aligned(self, sound: Sound, stream: Any, start: int) -> Iterator[tuple[int, int, Callable[[], np.ndarray]]]:
        """(place of the first sample, n, what makes (n, K) float32 of them), one after the other without a gap, from ``start``
        on or earlier. What nobody hears is decoded and not converted."""
        origin, position = (stream.start_time or 0, None) if start else (None, 0)
        failed, bad, good, odd, skipped = False, 0, 0, 0, 0
        step = stream.time_base * sound.rate  # samples in a unit of time stamps
        steady = stream.codec_context.name in STEADY
        for frame in self._frames(stream):
            if isinstance(frame, int):  # the size of a packet that cannot be decoded
                failed, bad = True, bad + 1
                skipped += max(1, round(frame / self.smallest))
                if origin is not None:
                    origin -= 1152 * self._swallowed(frame)  # and so it is filled
                continue
            if frame.sample_rate != sound.rate or frame.layout.nb_channels != sound.channels:
                failed, bad, odd = True, bad + 1, odd + 1  # as junk does that looks like a frame
                if odd > STRAY:
                    raise AudioError(
                        "{file} changes its sample rate or channels on the way; convert it to WAV or FLAC."
                    )
                continue
            good += 1
            stamp = None if frame.pts is None else _rounded(frame.pts * step.numerator, step.denominator)
            if position is None:  # just after it was sought in, where time stamps are
                assert stamp is not None and origin is not None  # noqa: PT018
                position = min(start, stamp - origin)
            if stamp is not None:
                origin = stamp - position if origin is None else origin
                gap = stamp - origin - position
                if steady:
                    gap, skipped = max(round(gap / frame.samples), skipped) * frame.samples, 0
                    origin = stamp - position - gap
                if (0 if failed else self.jitter) < gap < LONGEST_GAP * sound.rate:
                    sound.lost += gap / sound.rate
                    yield position, gap, partial(np.zeros, (gap, sound.channels), np.float32)
                    position += gap
                elif abs(gap) > self.jitter:  # another stream begins, with a clock of its own
                    origin = stamp - position
            failed = False
            yield position, frame.samples, partial(_floats, frame)
            position += frame.samples
        if bad > good:
            raise AudioError(
                f"{{file}} cannot be decoded as sound (PyAV: {bad} of its {bad + good} packets are damaged); check that it "
                "is a complete sound file, or convert it to WAV or FLAC."
            )
        if failed:
            sound.cut = sound.cut or "its last part is damaged"

    def _frames(self, stream: Any) -> Iterator[Any]:
        """Frames, and for each packet that cannot be decoded its size in bytes."""
        import av
        from av.error import FFmpegError

        self.smallest = 1 << 20  # bytes, of the packets so far
        packets, decoder = self.container.demux(stream), stream.codec_context
        if decoder.name in CHECKED:
            decoder = av.CodecContext.create(decoder.name, "r")
            decoder.extradata, decoder.options = stream.codec_context.extradata, {"err_detect": "crccheck+explode"}
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:  # of the container: nothing more can be found in it
                yield 0
                packet = None
            if packet is None:
                return
            if 0 < packet.size < headers.frame_bytes(bytes(packet)[:6]) and decoder.name.startswith(SIZED):
                yield packet.size  # which libav would decode with noise at its end
                continue
            try:
                yield from decoder.decode(packet)
                self.smallest = min(self.smallest, packet.size or self.smallest)
            except EOFError:
                return
            except FFmpegError:
                if bytes(packet)[:3] not in TAGS:
                    yield packet.size


def _rounded(numerator: int, denominator: int) -> int:
    """As ``round(Fraction(numerator, denominator))``, which takes as long as decoding a frame."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2))


def _floats(frame: Any) -> np.ndarray:
    """(n, K) float32, where 1 is full scale."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype.kind in "iu":
        middle = 128 if samples.dtype.kind == "u" else 0
        scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = (samples.astype(np.float64 if samples.dtype.itemsize > 2 else np.float32) - middle) / scale
    return np.ascontiguousarray(samples.T, dtype=np.float32)
