"""Unlabelled sound: folders, manifests and shards, and what is kept aside to be measured on.

Axes: S samples at 16 kHz.
"""

import csv
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ssast_lab import audio
from ssast_lab.data.streams import Stream

EXTENSIONS = frozenset(
    [
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".caf",
        ".w64",
        ".m4a",
        ".aac",
        ".mp4",
        ".webm",
        ".mka",
        ".wma",
        ".g722",
        ".gsm",
    ]
)
# Where a sound that is longer than a window is cut: how much of the room that is left lies before the cut. In training it is drawn.
BEGINNING = 0.0  # where a classifier names it, as in the official code and in transformers
MIDDLE = 0.5  # where the pretext task is measured: a recording often begins and ends with silence
COLUMNS = ("path", "wav", "file", "filename", "audio")  # of a manifest, the first that is there


class DataError(ValueError):
    """A corpus that cannot be used: the message says which, and what is wrong with it."""


@dataclass(frozen=True)
class Clip:
    """One sound file, or one member of a tar shard."""

    path: str
    span: tuple[int, int] | None = None  # (first byte, bytes) within the shard
    member: str = ""

    @property
    def name(self) -> str:
        return f"{self.path}:{self.member}" if self.span else self.path

    def open(self) -> str | io.BytesIO:
        """What :func:`ssast_lab.audio.load_waveform` reads."""
        if self.span is None:
            return self.path
        with open(self.path, "rb") as shard:
            shard.seek(self.span[0])
            return io.BytesIO(shard.read(self.span[1]))

    def sha256(self) -> bytes:
        """SHA-256 of the file's bytes, so of what is heard, wherever it lies; OSError where it cannot be read."""
        source = self.open()
        return hashlib.sha256(Path(source).read_bytes() if isinstance(source, str) else source.getbuffer()).digest()


def find_clips(sources: Iterable[str | os.PathLike[str]]) -> list[Clip]:
    """The clips of folders (all that lies in them, at any depth), sound files, tar shards (WebDataset), globs of these, and
    manifests: the official JSON (``{"data": [{"wav": ...}]}``), CSV or TSV with a column ``path``, in which
    ``train/00000.tar:000007.opus`` is a sound within a shard. In a fixed order."""
    clips: list[Clip] = []
    for source in map(str, sources):
        # unlike Path.exists, false for no name at all, which would be the folder one stands in, and for one that is too long
        paths = [source] if os.path.exists(source) else sorted(glob(source, recursive=True))
        if not paths:
            raise DataError(
                f"There is no sound at {source or 'a place without a name'}: no such file, folder or pattern."
            )
        for path in map(Path, paths):
            clips_here = list(_clips_of(path))
            if not clips_here:
                raise DataError(f"No sound was found in {path}.")
            clips += clips_here
    return clips


def _clips_of(path: Path) -> Iterator[Clip]:
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                suffix = Path(name).suffix.lower()
                if suffix in EXTENSIONS:
                    yield Clip(os.path.join(folder, name))
                elif suffix == ".tar":
                    yield from _members(Path(folder, name))
    elif path.suffix.lower() == ".tar":
        yield from _members(path)
    elif path.suffix.lower() in (".json", ".csv", ".tsv"):
        shards: dict[str, dict[str, Clip]] = {}
        for entry in _manifest(path):
            name, within, member = entry.partition(".tar:")
            if not within:
                yield Clip(os.path.join(path.parent, entry))
                continue
            shard = os.path.join(path.parent, f"{name}.tar")
            if shard not in shards:
                shards[shard] = {clip.member: clip for clip in _members(Path(shard))}
            if member not in shards[shard]:
                raise DataError(f"The shard {shard} has no sound {member}, which {path} names.")
            yield shards[shard][member]
    else:
        yield Clip(str(path))


def _members(path: Path) -> Iterator[Clip]:
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isfile() and Path(member.name).suffix.lower() in EXTENSIONS:
                    yield Clip(str(path), (member.offset_data, member.size), member.name)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} is no readable tar shard: {error}.") from None


def _manifest(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".json":
                return [str(entry["wav"]) for entry in json.load(file)["data"]]
            rows = rows_of(file, path)
            column = next((name for name in COLUMNS if name in (rows.fieldnames or ())), None)
            if column is None:
                raise DataError(f"{path} has no column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]} in its first line.")
            return [row[column] for row in rows if row[column]]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, RecursionError, csv.Error) as error:
        raise DataError(f"{path} is no manifest: {type(error).__name__}: {error}.") from None


def rows_of(file: TextIO, path: Path) -> "csv.DictReader[str]":
    """The rows of a CSV or TSV. In a TSV a quotation mark is a letter like any other: taken for the beginning of a quoted
    text, one in a transcript would swallow the rows that follow."""
    if path.suffix.lower() == ".tsv":
        return csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    return csv.DictReader(file)


def split(clips: Sequence[Clip], held_out: int, seed: int = 0) -> tuple[list[Clip], list[Clip]]:
    """(training, held-out): ``held_out`` clips drawn by the seed are set aside, with whatever else is the same sound: a
    manifest may list one twice, and sources may overlap."""
    if not 0 < held_out < len(clips):
        raise DataError(
            f"{held_out} of {len(clips)} clips cannot be held out, for some must be left to train on: "
            "add sounds, or name the ones to hold out."
        )
    aside = set(np.random.default_rng([seed, Stream.SPLIT]).permutation(len(clips))[:held_out].tolist())
    drawn = {_identity(clip): clip for i, clip in enumerate(clips) if i in aside}
    train = [clip for clip in clips if _identity(clip) not in drawn]
    if not train:
        raise DataError(f"All {len(clips)} clips are the same sound as those held out: add sounds to train on.")
    return train, list(drawn.values())


def spread(count: int, most: int) -> list[int]:
    """At most so many places in a list of ``count``, evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def _identity(clip: Clip) -> tuple[str, str]:
    return os.path.abspath(clip.path), clip.member


def generator(*key: int) -> torch.Generator:
    """A random generator seeded by the key alone: one key gives the same numbers anywhere and at any time."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def read_piece(clip: Clip, fraction: float, samples: int, notices: list[audio.AudioWarning] | None = None) -> Tensor:
    """(at most ``samples``,) float32 of a clip (:func:`ssast_lab.audio.load_piece`)."""
    return audio.load_piece(clip.open(), fraction, samples, notices)


def seconds_of(clips: Sequence[Clip], sample: int = 500) -> float:
    """How much sound there is in all, estimated: small files by what a sample of them holds, large ones by each header."""
    sizes = np.array([_size(clip) for clip in clips], dtype=np.float64)
    small = np.flatnonzero(sizes <= 1 << 20)
    seen = [int(small[place]) for place in spread(len(small), sample)] if len(small) else []
    per_byte = sum(map(estimated, (clips[i] for i in seen))) / max(sizes[seen].sum(), 1)
    return float(per_byte * sizes[small].sum()) + sum(
        estimated(clips[i]) for i in np.flatnonzero(sizes > 1 << 20).tolist()
    )


def _size(clip: Clip) -> int:
    try:
        return clip.span[1] if clip.span else os.stat(clip.path).st_size
    except OSError:  # is met again, and reported, when the clip is read
        return 0


def estimated(clip: Clip) -> float:
    """The seconds of a clip, by its header; 0 where it cannot be read."""
    try:
        return min(
            audio.estimated_seconds(clip.open()), _size(clip) / 100
        )  # no coder needs less than 100 bytes a second
    except (audio.AudioError, OSError):
        return 0.0


def told(clip: Clip, notices: Sequence[audio.AudioWarning]) -> dict[str, str]:
    """What is said of a clip, under its name: {} where there is nothing."""
    return {clip.name: " ".join(notice.about(repr(clip.name)) for notice in notices)} if notices else {}


def summary(noticed: Mapping[str, str]) -> list[str]:
    """A line on what should be known of some clips (name -> what); none where there is nothing."""
    return [f"To be known of {len(noticed)} clips, such as: {what}" for what in [*noticed.values()][:1]]


def statistics(
    clips: Sequence[Clip], limit: int = 10_000, seed: int = 0, progress: bool = False
) -> tuple[float, float, int]:
    """(mean, standard deviation, clips) of the un-normalised log-mel of at most ``limit`` clips: what normalises a corpus."""
    chosen = np.random.default_rng([seed, Stream.STATISTICS]).permutation(len(clips))[:limit]
    count, total, squares, used = 0, 0.0, 0.0, 0
    for index in tqdm(chosen, "statistics", disable=not progress):
        try:
            fbank = audio.kaldi_fbank(read_piece(clips[index], 0.5, 10 * audio.SAMPLE_RATE, [])).double()
        except (audio.AudioError, OSError):
            continue
        count, used = count + fbank.numel(), used + 1
        total, squares = total + float(fbank.sum()), squares + float(fbank.square().sum())
    if not count:
        raise DataError(f"None of the {len(chosen)} clips can be read.")
    mean = total / count
    return mean, max(squares / count - mean**2, 0.0) ** 0.5, used
