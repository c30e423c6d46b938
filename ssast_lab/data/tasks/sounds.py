"""The sounds of an unpacked package: whole files, parts of a file as a label file names them, samples of a soundfont.

Axes: S samples at 16 kHz.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ssast_lab.audio import SAMPLE_RATE, AudioError, load_waveform
from ssast_lab.data.corpus.clips import decode
from ssast_lab.data.tasks.soundfont import Sample, read_soundfont
from ssast_lab.data.tasks.table import TaskError

OTHER_SUFFIXES = (".sf2", ".catalogue")  # files to unpack beside sounds: soundfonts and label files
LONGEST_SECONDS = 10.0
SHORTEST_SECONDS = (
    0.2  # a patch of 16 frames fits; shorter parts of a file are widened, other sounds padded with silence
)
Load = Callable[[], np.ndarray]  # gives (S,) float32, or raises AudioError


def sounds_of(files: list[tuple[str, Path]]) -> Iterator[tuple[str, Load]]:
    """(path, the function that decodes it) of every sound in a package; the path of a part of a file is "file#part"."""
    segments = _catalogue(next((file for path, file in files if path.endswith(".catalogue")), None))
    for path, file in files:
        if path.endswith(".sf2"):
            for sample in read_soundfont(file):
                yield f"{path}#{sample.name}", partial(_played, sample)
        elif path.endswith(".catalogue"):
            continue
        elif segments:
            for phone, start, end in segments.get(Path(path).stem, ()):
                yield f"{path}#{phone} {start:.3f}", partial(_part, file, start, end)
        else:
            yield path, partial(_whole, file)


def _whole(file: Path) -> np.ndarray:
    return _padded(decode(file, "speech")[: int(LONGEST_SECONDS * SAMPLE_RATE)])


def _padded(wave: np.ndarray) -> np.ndarray:
    return np.pad(wave, (0, max(0, int(SHORTEST_SECONDS * SAMPLE_RATE) - len(wave))))


def _part(file: Path, start: float, end: float) -> np.ndarray:
    margin = max(0.0, SHORTEST_SECONDS - (end - start)) / 2
    start = max(0.0, start - margin)
    return load_waveform(file, start, max(SHORTEST_SECONDS, end + margin - start)).numpy()


def _played(sample: Sample) -> np.ndarray:
    import soxr

    wave = soxr.resample(sample.play(2.0), sample.rate, SAMPLE_RATE).astype(np.float32)
    peak = np.abs(wave).max(initial=0.0)
    if peak < 1e-3:
        raise AudioError(f"The sample {sample.name} is silent.")
    return _padded(wave * min(1.0, 0.99 / peak))


def _catalogue(file: Path | None) -> dict[str, list[tuple[str, float, float]]]:
    """utterance -> [(phone, start, end)] in seconds, from Festival's index of units ("a_3837 ru_0001 start mid end")."""
    segments: dict[str, list[tuple[str, float, float]]] = {}
    if file is None:
        return segments
    for line in file.read_text(encoding="utf-8").split("EST_Header_End")[-1].splitlines():
        if line.strip():
            try:
                unit, utterance, start, _, end = line.split()
                segments.setdefault(utterance, []).append((unit.rpartition("_")[0], float(start), float(end)))
            except ValueError:
                raise TaskError(f'The catalogue of units has the line "{line}": unit, file and three times are expected.') from None  # fmt: skip
    return segments
