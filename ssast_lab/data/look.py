"""What lies in a folder of recordings, before anything is trained on it.

Axes: S samples at the rate of their file.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from ssast_lab import audio
from ssast_lab.config import RunConfig
from ssast_lab.data.clips import Clip, find_clips, told
from ssast_lab.data.errors import Passed
from ssast_lab.files import printable

SILENCE = 10 ** (-60 / 20)  # of full scale: a sound that is nowhere louder has nothing to be learned from
FULL = 0.99  # of full scale
CLIPPED = 1e-3  # share of a sound's samples that are beyond FULL
NAMED = 5  # sounds of which the name is told


@dataclass(frozen=True)
class Looked:
    """What was found in some places. Names are those of :attr:`ssast_lab.data.Clip.name`."""

    sources: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)  # of each sound that can be read
    rates: Counter[int] = field(default_factory=Counter)  # Hz -> sounds
    channels: Counter[int] = field(default_factory=Counter)  # how many -> sounds
    formats: Counter[str] = field(default_factory=Counter)  # -> sounds
    unreadable: dict[str, str] = field(default_factory=dict)  # name -> why
    noticed: dict[str, str] = field(default_factory=dict)  # name -> what should be known of it
    silent: tuple[str, ...] = ()  # nowhere louder than -60 dB of full scale
    clipped: tuple[str, ...] = ()  # one in a thousand samples is at full scale
    same: tuple[tuple[str, ...], ...] = ()  # sounds of the same samples, whatever their files
    passed: Passed = field(default_factory=Passed)

    @property
    def hours(self) -> float:
        return sum(self.seconds.values()) / 3600

    def lines(self) -> list[str]:
        """For a person."""
        lengths = np.array([*self.seconds.values()])
        found = len(lengths) + len(self.unreadable)
        length = f"{self.hours:.2f} hours" if self.hours >= 1 else f"{60 * self.hours:.1f} minutes"
        sounds = f"{found:,} sound{'s' * (found != 1)}"
        lines = [f"{', '.join(printable(source) for source in self.sources)}: {sounds}, {length}"]
        if len(lengths):
            tenth, half, most = np.quantile(lengths, [0.1, 0.5, 0.9])
            spread = (
                f" to {lengths.max():.2f} s; half are longer than {half:.2f} s, one in ten is shorter "
                f"than {tenth:.2f} s and one in ten longer than {most:.2f} s"
            )
            lines += [
                f"  lengths     {lengths.min():.2f} s{spread * (len(lengths) > 1)}",
                f"  rates       {_counted(self.rates, '{} Hz')}",
                f"  channels    {_counted(self.channels, '{}')}",
                f"  formats     {_counted(self.formats)}",
            ]
        lines += _named("unreadable", [*self.unreadable.values()])
        if len(self.unreadable) > RunConfig.unreadable * found and len(lengths):
            share = math.ceil(100 * len(self.unreadable) / found) / 100
            lines.append(
                f"              Training stops at so many: take them out of the folder, or add --run.unreadable {share:g}."
            )
        lines += _named("silent", self.silent)
        lines += _named("clipped", self.clipped)
        lines += _named("the same", [" = ".join(names) for names in self.same])
        lines += _named("to be known", [*self.noticed.values()])
        return [*lines, f"  passed over {self.passed}"] if self.passed else lines


def look(sources: Iterable[str | os.PathLike[str]], heard: Callable[[float], object] | None = None) -> Looked:
    """Reads all sound in folders, files, manifests or shards once. ``heard`` is told of the seconds of each sound that was read.
    :class:`ssast_lab.data.DataError` where there is none."""
    names, passed = [*map(str, sources)], Passed()
    clips = list(dict.fromkeys(find_clips(names, passed)))
    looked = Looked(tuple(names), passed=passed)
    silent: list[str] = []
    clipped: list[str] = []
    sums: dict[bytes, list[str]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for clip, found in zip(clips, pool.map(_heard, clips), strict=True):
            if isinstance(found, str):
                looked.unreadable[clip.name] = found
                continue
            looked.seconds[clip.name] = found.info.seconds
            looked.rates[found.info.sample_rate] += 1
            looked.channels[found.info.channels] += 1
            looked.formats[found.info.format] += 1
            looked.noticed.update(found.noticed)
            if found.loudest < SILENCE:
                silent.append(clip.name)
            else:
                sums.setdefault(found.sum, []).append(clip.name)
            if found.full > CLIPPED:
                clipped.append(clip.name)
            if heard:
                heard(found.info.seconds)
    same = tuple(tuple(each) for each in sums.values() if len(each) > 1)
    return replace(looked, silent=tuple(silent), clipped=tuple(clipped), same=same)


@dataclass(frozen=True)
class _Heard:
    info: audio.AudioInfo
    loudest: float  # the largest sample, where 1 is full scale
    full: float  # share of the samples beyond FULL
    sum: bytes  # a checksum of the samples in 16 bits
    noticed: dict[str, str]


def _heard(clip: Clip) -> _Heard | str:
    """What a clip is, or why it cannot be read."""
    loudest, full, count, content = 0.0, 0, 0, hashlib.sha256()
    notices: list[audio.AudioWarning] = []
    try:
        info = audio.info(clip.open(), [], damage=False)
        for block in audio.waveform_blocks(clip.open(), notices=notices, to_rate=info.sample_rate):
            samples = block.numpy()
            if len(samples):
                loudness = np.abs(samples)
                loudest, full = max(loudest, float(loudness.max())), full + int((loudness >= FULL).sum())
                content.update((samples * 32767).round().clip(-32768, 32767).astype(np.int16).tobytes())
            count += len(samples)
    except (audio.AudioError, OSError) as error:
        return str(error)
    return _Heard(info, loudest, full / max(count, 1), content.digest(), told(clip, notices))


def _counted(counts: Counter, words: str = "{}") -> str:
    """ "48000 Hz (12), 44100 Hz (3)" """
    return ", ".join(f"{words.format(value)} ({count:,})" for value, count in counts.most_common())


def _named(what: str, names: Sequence[str]) -> list[str]:
    """A line with how many there are, and one for each of the first."""
    if not names:
        return []
    shown = [f"              {printable(name)}" for name in names[:NAMED]]
    more = [f"              and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return [f"  {what:11} {len(names)}", *shown, *more]
