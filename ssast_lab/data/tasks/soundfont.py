"""The samples that the General MIDI programs of a SoundFont 2 file play.

Format: SoundFont Technical Specification 2.04, sections 4 to 7. The preset of a program has zones that refer to instruments;
an instrument has zones that refer to samples; a sample is a stretch of 16-bit values with a loop.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssast_lab.data.tasks.table import TaskError

RECORDS = {  # of the chunk "pdta", section 7
    b"phdr": np.dtype([("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("rest", "<u4", 3)]),
    b"pbag": np.dtype([("gen", "<u2"), ("mod", "<u2")]),
    b"pgen": np.dtype([("oper", "<u2"), ("amount", "<u2")]),
    b"inst": np.dtype([("name", "S20"), ("bag", "<u2")]),
    b"ibag": np.dtype([("gen", "<u2"), ("mod", "<u2")]),
    b"igen": np.dtype([("oper", "<u2"), ("amount", "<u2")]),
    b"shdr": np.dtype(
        [("name", "S20"), ("start", "<u4"), ("end", "<u4"), ("loop", "<u4"), ("again", "<u4"), ("rate", "<u4"),
         ("pitch", "u1"), ("tune", "i1"), ("link", "<u2"), ("type", "<u2")]
    ),
}  # fmt: skip
INSTRUMENT, SAMPLE, MODES = 41, 53, 54  # generators, section 8.1.2
MONO, LEFT = 1, 4  # sample types; the right half of a stereo pair is not taken
FADE_SECONDS = 0.05


@dataclass(frozen=True)
class Sample:
    """A sample as one program plays it, at the sample's original pitch."""

    name: str  # "000 Grand Piano: C4"
    values: np.ndarray  # 16 bit
    loop: tuple[int, int]  # first value and the one after the last; equal where the sample is played once
    rate: int  # Hz

    def play(self, seconds: float) -> np.ndarray:
        """(at most ``seconds`` times ``rate``,) float32: sustained by the loop, faded out at the end."""
        count, (first, last) = int(seconds * self.rate), self.loop
        wave = self.values[:last] if last > first else self.values
        if last > first and len(wave) < count:
            wave = np.concatenate([wave, np.resize(self.values[first:last], count - len(wave))])
        wave = wave[:count].astype(np.float32) / 32768
        fade = min(len(wave), int(FADE_SECONDS * self.rate))
        wave[len(wave) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        return wave


def read_soundfont(file: Path) -> list[Sample]:
    """The samples of all melodic programs (bank 0), program by program. :class:`TaskError` for a file that is no SoundFont."""
    try:
        chunks = dict(_chunks(np.memmap(file, np.uint8, "r")))
        table = {name: np.frombuffer(chunks[name][: len(chunks[name]) // kind.itemsize * kind.itemsize], kind)
                 for name, kind in RECORDS.items()}  # fmt: skip
        return list(_samples(chunks[b"smpl"].view("<i2"), table))
    except (KeyError, IndexError, ValueError) as error:
        raise TaskError(f"{file.name} is no readable SoundFont 2 file: {type(error).__name__}: {error}.") from None


def _chunks(data: np.ndarray) -> Iterator[tuple[bytes, np.ndarray]]:
    """(name, content) of the chunks of a RIFF file, at any depth."""
    place = 0
    while place + 8 <= len(data):
        name, size = data[place : place + 4].tobytes(), int(data[place + 4 : place + 8].view("<u4")[0])
        content = data[place + 8 : place + 8 + size]
        if name in (b"RIFF", b"LIST"):
            yield from _chunks(content[4:])
        else:
            yield name, content
        place += 8 + size + size % 2


def _samples(values: np.ndarray, table: dict[bytes, np.ndarray]) -> Iterator[Sample]:
    presets = table[b"phdr"][:-1]  # the last record of each table only ends it
    for p in np.argsort(presets["program"], kind="stable").tolist():
        if presets[p]["bank"] != 0:
            continue
        seen = set()
        for zone in _zones(table[b"phdr"], table[b"pbag"], table[b"pgen"], p):
            if INSTRUMENT not in zone:
                continue
            modes = 0
            for inner in _zones(table[b"inst"], table[b"ibag"], table[b"igen"], zone[INSTRUMENT]):
                if SAMPLE not in inner:  # a global zone: defaults for the others
                    modes = inner.get(MODES, 0)
                    continue
                s = inner[SAMPLE]
                head = table[b"shdr"][s]
                if s in seen or int(head["type"]) not in (MONO, LEFT):
                    continue
                seen.add(s)
                start, end = int(head["start"]), int(head["end"])
                loop = (int(head["loop"]) - start, int(head["again"]) - start)
                held = inner.get(MODES, modes) & 1 and 0 <= loop[0] < loop[1] <= end - start
                names = [h["name"].split(b"\0")[0].decode("latin-1").strip() for h in (presets[p], head)]
                yield Sample(f"{presets[p]['program']:03d} {names[0]}: {names[1]}", values[start:end],
                             loop if held else (0, 0), int(head["rate"]))  # fmt: skip


def _zones(heads: np.ndarray, bags: np.ndarray, gens: np.ndarray, which: int) -> Iterator[dict[int, int]]:
    """The generators of each zone of a preset or instrument."""
    for b in range(int(heads[which]["bag"]), int(heads[which + 1]["bag"])):
        zone = gens[int(bags[b]["gen"]) : int(bags[b + 1]["gen"])]
        yield {int(g["oper"]): int(g["amount"]) for g in zone}
