"""Unlabelled sound: folders, manifests and shards, and what is kept aside to be measured on.

Axes: S samples at the rate that is asked for.
"""

import hashlib
import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ssast_lab import audio
from ssast_lab.config import AudioConfig
from ssast_lab.data import arrow, folders, lists
from ssast_lab.data.errors import DataError, Passed, tell
from ssast_lab.data.streams import Stream
from ssast_lab.files import printable

LINKED, SPARSE, SILENT, TABLE = (
    "hard-linked in a shard",
    "sparse in a shard",
    "rows without a sound",
    "tables without sounds",
)
# Where a sound that is longer than a window is cut: how much of the room that is left lies before the cut. In training it is drawn.
BEGINNING = 0.0  # where a classifier names it, as in the official code and in transformers
TENTH, PIECE, SHORTEST = 0.1, 10.0, 0.5  # of one recording is held out, in pieces of so many seconds; its least seconds
FEW = 500  # clips whose lengths are looked at before some are held out: among more, one alone hardly counts
MIDDLE = 0.5  # where the pretext task is measured: a recording often begins and ends with silence


@dataclass(frozen=True)
class Clip:
    """One sound file, one member of a tar shard, or one row of a Parquet or Arrow file; or a part of such a recording."""

    path: str
    span: tuple[int, int] | None = None  # (first byte, or row of Parquet; bytes) within the file that holds several
    member: str = ""
    part: tuple[float, float] | None = None  # (begin, end) in seconds; None: all of it

    @property
    def name(self) -> str:
        name = f"{self.path}:{self.member}" if self.span else self.path
        return f"{name} from {self.part[0]:.2f} to {self.part[1]:.2f} s" if self.part else name

    def open(self) -> str | io.BytesIO:
        """What :func:`ssast_lab.audio.load_waveform` reads: all of the recording."""
        return self.path if self.span is None else io.BytesIO(self.read())

    def read(self, first: int = 0, count: int | None = None) -> bytes:
        """The bytes of the sound's file, or ``count`` of them; OSError where it cannot be read."""
        start, size = self.span or (0, os.stat(self.path).st_size)
        end = size if count is None else min(first + count, size)
        if self.span and arrow.is_parquet(self.path):
            return arrow.sound(self.path, start)[first:end]
        with open(self.path, "rb") as file:
            file.seek(start + first)
            return file.read(max(0, end - first))

    def sha256(self) -> bytes:
        """SHA-256 of the file's bytes, so of what is heard, wherever it lies; OSError where it cannot be read."""
        return hashlib.sha256(self.read()).digest()


def find_clips(sources: Iterable[str | os.PathLike[str]], passed: Passed | None = None) -> list[Clip]:
    """The clips of folders (all that lies in them, at any depth), sound files, tar shards (WebDataset), Parquet and Arrow files
    with a column of sounds, globs of these, and manifests: the official JSON (``{"data": [{"wav": ...}]}``), CSV or TSV with a
    column ``path``, in which ``train/00000.tar:000007.opus`` is a sound within a shard. In a fixed order.

    What was passed over is counted in ``passed``, or said in one line where there is no such count."""
    names, counted = [*map(str, sources)], Passed() if passed is None else passed
    if not names:
        raise DataError("There is nothing to listen to: name folders, sound files, manifests or shards.")
    clips: list[Clip] = []
    for source in names:
        # unlike Path.exists, false for no name at all, which would be the folder one stands in, and for one that is too long
        paths = [source] if os.path.exists(source) else sorted(glob(source, recursive=True))
        if not paths:
            raise DataError(
                f"There is no sound at {source or 'a place without a name'}: no such file, folder or pattern."
            )
        for path in map(Path, paths):
            here = Passed()
            clips_here = list(_clips_of(path, here))
            if not clips_here:
                raise DataError(
                    f"No sound was found in {printable(str(path))}{f': there were {here}' if here else ''}."
                )
            counted.update(here)
            clips += clips_here
    if passed is None:
        counted.tell(names)
    if len(different := Counter(clips)) < len(clips):
        again, name = len(clips) - len(different), different.most_common(1)[0][0].name
        if passed is None:
            tell(f"{again} more than {len(different)} different sounds are listed (such as {printable(name)} again): each is heard as often "
                 "as it is listed.")  # fmt: skip
        else:
            counted.add(lists.TWICE, name, count=again)
    return clips


def _clips_of(path: Path, passed: Passed) -> Iterator[Clip]:
    if path.is_dir():
        for file in folders.walk(path, passed):
            suffix = folders.suffix_of(file)
            if suffix in folders.EXTENSIONS:
                yield Clip(file)
            elif suffix in folders.SHARDS:
                yield from members(file, passed, within=True)
            else:
                folders.pass_over(file, passed)
    elif path.suffix.lower() in folders.SHARDS:
        yield from members(str(path), passed)
    elif path.suffix.lower() == ".json" or path.suffix.lower() in lists.TABLES:
        yield from _listed(path, passed)
    elif path.name.lower().endswith(folders.PACKED):
        raise DataError(f"{path} is packed: {folders.UNPACK}.")
    else:
        yield Clip(str(path))


def _listed(path: Path, passed: Passed) -> Iterator[Clip]:
    """The clips that a manifest names."""
    if path.suffix.lower() == ".json":
        entries = [(f"Entry {number}", entry["wav"]) for number, entry in lists.read_entries(path)]
    else:
        table = lists.read_table(path, passed)
        column = table.needed(lists.COLUMNS)
        entries = [(f"Line {row.line}", row.cells[column]) for row in table.rows]
    shards: dict[str, dict[str, Clip]] = {}
    for where, entry in entries:
        if not entry:
            raise DataError(f"{where} of {path} names no sound.")
        name, within, member = entry.partition(".tar:")
        if not within:
            yield Clip(os.path.join(path.parent, entry))
            continue
        shard = os.path.join(path.parent, f"{name}.tar")
        if shard not in shards:
            shards[shard] = {clip.member: clip for clip in members(shard, Passed())}
        if member not in shards[shard]:
            raise DataError(f"The shard {shard} has no sound {member}, which {where.lower()} of {path} names.")
        yield shards[shard][member]


def members(path: str, passed: Passed, within: bool = False) -> Iterator[Clip]:
    """The sounds in a shard: in a tar by their names, in Parquet and Arrow those of a column. One that lies ``within`` a folder
    that is searched may hold something else."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise DataError(
            f"{path} is no shard of sounds: {'it is no regular file' if os.path.exists(path) else 'it is not there'}."
        )
    if not path.lower().endswith(".tar"):
        yield from _rows(path, passed, within)
        return
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                name = f"{path}:{member.name}"
                if member.isdir():
                    continue
                if not folders.is_sound(member.name):
                    folders.pass_over(name, passed, member.name)
                elif not member.isreg() or member.issparse():
                    passed.add(LINKED if member.islnk() else SPARSE if member.isreg() else folders.NO_FILE, name)
                else:
                    yield Clip(path, (member.offset_data, member.size), member.name)
    except (tarfile.TarError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path} is no readable tar shard: {why}.") from None


def _rows(path: str, passed: Passed, within: bool) -> Iterator[Clip]:
    if within and os.path.basename(path).startswith(
        "cache-"
    ):  # of ``datasets``, which keeps what it computed beside a set
        passed.add(TABLE, path)
        return
    try:
        sounds = arrow.read(path)
    except DataError as error:
        if not within:
            raise
        passed.add(TABLE, path, str(error).rstrip("."))
        return
    if sounds is None:
        if not within:
            raise DataError(
                f"{path} has no column of sounds (bytes, or paths in a column called {', '.join(lists.COLUMNS)})."
            )
        passed.add(TABLE, path)
        return
    yield from (clip for clip in rows_of(path, sounds, passed) if clip)


def rows_of(path: str, sounds: arrow.Sounds, passed: Passed) -> Iterator[Clip | None]:
    """A clip for each row; None for one that holds neither a sound nor a path."""
    for row, (name, span) in enumerate(zip(sounds.paths, sounds.spans, strict=True)):
        if span:
            yield Clip(path, span, f"{row}/{PurePosixPath(name).name}" if name else str(row))
        elif name:
            yield Clip(os.path.join(os.path.dirname(path), name))
        else:
            passed.add(SILENT, f"{path}:{row}")
            yield None


def split(clips: Sequence[Clip], held_out: int, seed: int = 0) -> tuple[list[Clip], list[Clip]]:
    """(training, held-out): ``held_out`` clips drawn by the seed are set aside, with whatever else is the same sound: a
    manifest may list one twice, and sources may overlap. Clips are counted, not seconds, but one that has most of the time of a few
    (an hour among short ones) is not held out, where only one window of it would be measured on, nor is one that cannot be read."""
    if not 0 < held_out < len(clips):
        raise DataError(
            f"{held_out} of {len(clips)} clips cannot be held out, for some must be left to train on: "
            "add sounds, or name the ones to hold out (--data.held-out)."
        )
    drawn_order = np.random.default_rng([seed, Stream.SPLIT]).permutation(len(clips))
    if len(clips) <= FEW:
        seconds = np.array([estimated(clip) for clip in clips])
        too_long = seconds > min(max(TENTH, 3 / len(clips)), 0.75) * seconds.sum()
        last = too_long | (seconds == 0)  # also what cannot be read
        drawn_order = drawn_order[np.argsort(last[drawn_order], kind="stable")]
    aside = set(drawn_order[:held_out].tolist())
    drawn = {_identity(clip): clip for i, clip in enumerate(clips) if i in aside}
    train = [clip for clip in clips if _identity(clip) not in drawn]
    if not train:
        raise DataError(f"All {len(clips)} clips are the same sound as those held out: add sounds to train on.")
    return train, list(drawn.values())


def split_in_time(clip: Clip, held_out: int) -> tuple[list[Clip], list[Clip]]:
    """(training, held-out) of a single recording, whose last tenth is set aside, in at most ``held_out`` pieces of 10 s.
    :class:`DataError` for one that is too short for that."""
    try:
        seconds = audio.info(clip.open(), [], damage=False).seconds
    except (audio.AudioError, OSError) as error:
        raise DataError(f"The one sound to learn from cannot be read: {error}") from None
    aside = TENTH * seconds
    if aside < SHORTEST:
        raise DataError(
            f"Of a single recording the last tenth is held out, and that of {clip.name} has only {aside:.2f} s: add sounds, take one of "
            f"at least {SHORTEST / TENTH:.0f} s, or name other sounds to hold out (--data.held-out)."
        )
    pieces = max(min(int(aside / PIECE), held_out), 1)
    begins = np.linspace(seconds - aside, seconds - min(PIECE, aside), pieces)
    ends = np.minimum(begins + PIECE, seconds)
    return [replace(clip, part=(0.0, seconds - aside))], [
        replace(clip, part=(float(begin), float(end))) for begin, end in zip(begins, ends, strict=True)
    ]


def spread(count: int, most: int) -> list[int]:
    """At most so many places in a list of ``count``, evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def _identity(clip: Clip) -> tuple[object, ...]:
    """Which sound it is, under whatever name: folders may be linked."""
    try:
        status = os.stat(clip.path)
        return status.st_dev, status.st_ino, clip.span
    except OSError:
        return os.path.abspath(clip.path), clip.member


def generator(*key: int) -> torch.Generator:
    """A random generator seeded by the key alone: one key gives the same numbers anywhere and at any time."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def read_piece(
    clip: Clip,
    fraction: float,
    samples: int,
    notices: list[audio.AudioWarning] | None = None,
    rate: int = audio.SAMPLE_RATE,
) -> Tensor:
    """(at most ``samples``,) float32 of a clip at a rate in Hz (:func:`ssast_lab.audio.load_piece`)."""
    if clip.part is None:
        return audio.load_piece(clip.open(), fraction, samples, notices, rate)
    begin, end = clip.part
    room = round((end - begin) * rate) - samples
    start = begin + int(fraction * (room + 1)) / rate if room > 0 else begin
    seconds = min(samples / rate, end - start)
    return audio.load_waveform(clip.open(), start, seconds, notices=notices, to_rate=rate)[:samples]


def read_whole(clip: Clip, notices: list[audio.AudioWarning] | None = None, rate: int = audio.SAMPLE_RATE) -> Tensor:
    """(S,) float32: all of a clip at a rate in Hz (:func:`ssast_lab.audio.load_waveform`)."""
    begin, end = clip.part or (0.0, None)
    seconds = None if end is None else end - begin
    return audio.load_waveform(clip.open(), begin, seconds, notices=notices, to_rate=rate)


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
    if clip.part:
        return clip.part[1] - clip.part[0]
    try:
        # no coder needs less than 100 bytes a second
        return min(audio.estimated_seconds(clip.open()), _size(clip) / 100)
    except (audio.AudioError, OSError):
        return 0.0


def told(clip: Clip, notices: Sequence[audio.AudioWarning]) -> dict[str, str]:
    """What is said of a clip, under its name: {} where there is nothing."""
    return {clip.name: " ".join(notice.about(repr(clip.name)) for notice in notices)} if notices else {}


def summary(noticed: Mapping[str, str]) -> list[str]:
    """A line on what should be known of some clips (name -> what); none where there is nothing."""
    return [f"To be known of {len(noticed)} clips, such as: {what}" for what in [*noticed.values()][:1]]


def statistics(
    clips: Sequence[Clip],
    limit: int = 10_000,
    seed: int = 0,
    progress: bool = False,
    unreadable: dict[str, str] | None = None,
    noticed: dict[str, str] | None = None,
    config: AudioConfig = audio.OFFICIAL,
) -> tuple[float, float, int]:
    """(mean, standard deviation, clips) of the un-normalised log-mel of at most ``limit`` clips: what normalises a corpus.

    To ``unreadable`` (name -> why) the clips are added that had to be left out, and to ``noticed`` (name -> what) what should
    be known of the others."""
    chosen = np.random.default_rng([seed, Stream.STATISTICS]).permutation(len(clips))[:limit]
    count, total, squares, used = 0, 0.0, 0.0, 0
    for index in tqdm(chosen, "statistics", disable=not progress):
        clip, notices = clips[index], list[audio.AudioWarning]()
        try:
            piece = read_piece(clip, 0.5, 10 * config.sample_rate, notices, config.sample_rate)
            fbank = audio.kaldi_fbank(piece, config).double()
        except (audio.AudioError, OSError) as error:
            if unreadable is not None:
                unreadable[clip.name] = str(error)
            continue
        if noticed is not None:
            noticed |= told(clip, notices)
        count, used = count + fbank.numel(), used + 1
        total, squares = total + float(fbank.sum()), squares + float(fbank.square().sum())
    if not count:
        raise DataError(f"None of the {len(chosen)} clips can be read.")
    mean = total / count
    return mean, max(squares / count - mean**2, 0.0) ** 0.5, used
