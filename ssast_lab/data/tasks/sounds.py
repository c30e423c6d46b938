"""The sounds of an unpacked package: whole files, the parts of a file that a label file names, samples of a soundfont.

S samples at 16 kHz.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ssast_lab.audio import SAMPLE_RATE, AudioError, load_waveform
from ssast_lab.data.corpus.clips import decode
from ssast_lab.data.tasks.soundfont import Sample, read_soundfont
from ssast_lab.data.tasks.table import TaskError

MORE = (".sf2", ".catalogue")  # files that are no sounds and are wanted
LONGEST = 10 * SAMPLE_RATE
SHORTEST = (
    0.2  # s: a patch of 16 frames fits into it; parts of a file are widened to so much, the rest filled with silence
)
Load = Callable[[], np.ndarray]


def sounds(files: list[tuple[str, Path]]) -> Iterator[tuple[str, Load]]:
    """(path, what decodes it) of every sound in a package; a part of a file is called "file#part"."""
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
    return _filled(decode(file, "speech")[:LONGEST])


def _filled(wave: np.ndarray) -> np.ndarray:
    return np.pad(wave, (0, max(0, int(SHORTEST * SAMPLE_RATE) - len(wave))))


def _part(file: Path, start: float, end: float) -> np.ndarray:
    beside = max(0.0, SHORTEST - (end - start)) / 2
    start = max(0.0, start - beside)
    return load_waveform(file, start, max(SHORTEST, end + beside - start)).numpy()


def _played(sample: Sample) -> np.ndarray:
    import soxr

    wave = soxr.resample(sample.play(2.0), sample.rate, SAMPLE_RATE).astype(np.float32)
    peak = np.abs(wave).max(initial=0.0)
    if peak < 1e-3:
        raise AudioError(f"The sample {sample.name} is silent.")
    return _filled(wave * min(1.0, 0.99 / peak))


def _catalogue(file: Path | None) -> dict[str, list[tuple[str, float, float]]]:
    """utterance -> [(phone, start, end)] in seconds, from Festival's index of units ("a_3837 ru_0001 start mid end")."""
    found: dict[str, list[tuple[str, float, float]]] = {}
    if file is None:
        return found
    for line in file.read_text(encoding="utf-8").split("EST_Header_End")[-1].splitlines():
        if line.strip():
            try:
                unit, utterance, start, _, end = line.split()
                found.setdefault(utterance, []).append((unit.rpartition("_")[0], float(start), float(end)))
            except ValueError:
                raise TaskError(f'The catalogue of units has the line "{line}": unit, file and three times are expected.') from None  # fmt: skip
    return found
