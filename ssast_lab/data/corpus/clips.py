"""From sound files to clips that each fill a window, and from clips to Opus. S samples at 16 kHz."""

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.fft import next_fast_len

from ssast_lab.audio import SAMPLE_RATE, AudioError, info, load_waveform
from ssast_lab.data.corpus.table import CorpusError

WINDOW = 164_160  # samples, 10.26 s: just enough for 1024 frames of log-mel
CUT = {"music": 120, "effect": 60}  # seconds, from the middle of a file: no long track shall outweigh the others
EXCERPT = 160_000  # samples, 10 s: a clip of the set "elsewhere"
GAP = 1600  # samples of silence between short sounds that are joined
LEAST = 16_000  # samples: what is left over at a package's end and is shorter is dropped
QUIET = 1e-3  # of full scale: files that never get louder are dropped
OPUS = {"b": "32k", "vbr": "on", "compression_level": "10", "application": "audio", "flags": "+bitexact"}
FRAME = 320  # samples in an Opus frame, 20 ms
RAW: dict[str, tuple[str, dict[str, str]]] = {  # without a header, so told by their names: format and options of FFmpeg
    ".g722": ("g722", {}),  # telephones
    ".gsm": ("gsm", {}),
    ".als": ("u8", {"sample_rate": "11025"}),  # the voices of Drascula
}


def decode(file: Path, kind: str, cut: Mapping[str, int] = CUT) -> np.ndarray:
    """(S,) float32 at 16 kHz, without silence at the ends; of a file longer than ``cut`` has for its kind (in seconds) only
    the middle."""
    limit = cut.get(kind, 0)
    if file.suffix in RAW:
        wave = _decode_raw(file)
        if limit and (over := len(wave) - limit * SAMPLE_RATE) > 0:
            wave = wave[over // 2 : over // 2 + limit * SAMPLE_RATE]
    elif limit and (seconds := info(file, damage=False).seconds) > limit:
        wave = load_waveform(file, (seconds - limit) / 2, limit).numpy()
    else:
        wave = load_waveform(file).numpy()
    peak = np.abs(wave).max(initial=0.0)
    if peak < QUIET:
        raise AudioError("{file} is silent.", file)
    loud = np.flatnonzero(np.abs(wave) > 0.001 * peak)
    return wave[max(0, loud[0] - 800) : loud[-1] + 800] * min(1.0, 0.99 / peak)


def _decode_raw(file: Path) -> np.ndarray:
    import av

    try:
        kind, options = RAW[file.suffix]
        with av.open(str(file), format=kind, options=options) as container:
            resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            frames = [piece for frame in (*container.decode(audio=0), None) for piece in resampler.resample(frame)]
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"{{file}} cannot be decoded ({error}); the package may be damaged.", file) from None
    return np.concatenate([frame.to_ndarray()[0] for frame in frames] or [np.zeros(0, np.float32)])


def cut_and_join(
    sounds: Iterable[tuple[dict[str, Any], np.ndarray]],
) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
    """Clips of at least a window each, from (file, wave) pairs of one kind: [(file, ...)] with "start", and the wave.

    A long sound is cut into equal parts of one to two windows, so that nothing is left over; short ones are joined,
    with a short silence between them, until they fill a window, and none is split. Only the last clip may be shorter.
    """
    files: list[dict[str, Any]] = []
    waves: list[np.ndarray] = []
    for file, wave in sounds:
        if parts := len(wave) // WINDOW:
            edges = np.linspace(0, len(wave), parts + 1).astype(int)
            for start, end in pairwise(edges):
                yield [{**file, "start": round(start / SAMPLE_RATE, 3)}], wave[start:end]
            continue
        files.append({**file, "start": 0.0})
        waves += [np.zeros(GAP, np.float32), wave] if waves else [wave]
        if sum(map(len, waves)) >= WINDOW:
            yield files, np.concatenate(waves)
            files, waves = [], []
    if sum(map(len, waves)) >= LEAST:
        yield files, np.concatenate(waves)


def excerpts(
    sounds: Iterable[tuple[dict[str, Any], np.ndarray]],
) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
    """Clips of ten continuous seconds, from the same pairs as above: one for every begun 30 s of a file, evenly spread.

    Files that are shorter than ten seconds give none.
    """
    for file, wave in sounds:
        if (room := len(wave) - EXCERPT) < 0:
            continue
        count = -(-len(wave) // (3 * EXCERPT))
        for start in ((np.arange(count) + 0.5) / count * room).astype(int):
            yield [{**file, "start": round(start / SAMPLE_RATE, 3)}], wave[start : start + EXCERPT]


def encode(wave: np.ndarray) -> bytes:
    """The wave as Ogg Opus, read back (by another library) and compared."""
    import av
    import soundfile

    pcm = np.round(np.clip(wave, -1, 1) * 32767).astype("<i2")
    file = io.BytesIO()
    with av.open(file, "w", format="opus", options={"fflags": "+bitexact"}) as container:  # no random serial number
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono", format="s16", options=OPUS)
        for start in range(0, len(pcm), FRAME):
            frame = av.AudioFrame.from_ndarray(pcm[None, start : start + FRAME], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = file.getvalue()
    back, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    change = level(back) - level(wave)
    if rate != SAMPLE_RATE or back.ndim != 1 or abs(len(back) - len(wave)) > 16 or not -6 < change < 3:
        raise CorpusError(
            f"A clip of {len(wave)} samples came back from Opus with {len(back)} samples at {rate} Hz and a "
            f"level changed by {change:.1f} dB; this PyAV or libsndfile is broken, install another."
        )
    return data


def level(wave: np.ndarray) -> float:
    """dB of what is heard, from 50 Hz to 4 kHz: Opus takes away a constant offset, and some of the highest noise."""
    length = next_fast_len(len(wave), real=True)  # lengths with large prime factors take several times as long
    power = np.abs(np.fft.rfft(wave, length) / len(wave)) ** 2
    hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    return float(10 * np.log10(power[(hertz > 50) & (hertz < 4000)].sum() + 1e-8))
