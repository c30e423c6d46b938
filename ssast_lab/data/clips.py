"""Corpora of unlabelled sound, and which piece of which clip stands in which batch.

Axes: B clips of a batch, S samples at 16 kHz. A batch is a function of (seed, step): which clips, where they are cut, and
what stands in for an unreadable one are drawn from generators keyed by the place in the run, never from global random state.
"""

import csv
import io
import json
import os
import signal
import tarfile
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ssast_lab import audio
from ssast_lab.config import AudioConfig
from ssast_lab.patches import beside

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
COLUMNS = ("path", "wav", "file", "filename", "audio")  # of a manifest, the first that is there
AHEAD = 4  # batches that each worker reads ahead
TRIES = 1000  # draws of a clip that stands in for an unreadable one before a corpus is given up


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
            found = list(_clips_of(path))
            if not found:
                raise DataError(f"No sound was found in {path}.")
            clips += found
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
    aside = set(np.random.default_rng([seed, 2]).permutation(len(clips))[:held_out].tolist())
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
    """What a key draws from: the same wherever and whenever it is asked for."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


class Batch(NamedTuple):
    """Pieces of sound, equally long, zero-padded at the end where a clip is shorter."""

    waveforms: Tensor  # (B, S) int16
    lengths: Tensor  # (B,) samples of each that are sound; on the CPU, where they are looked at
    names: list[str]  # (B,) which clip each was cut from
    unreadable: dict[str, str]  # name -> why, of clips that others stand in for
    indices: Tensor  # (B,) the number of that clip in its corpus
    targets: Tensor | None = None  # (B, L) which labels each has, where there are any

    def part(self, rows: slice) -> "Batch":
        """Some of its rows; what could not be read is not repeated."""
        targets = None if self.targets is None else self.targets[rows]
        return Batch(self.waveforms[rows], self.lengths[rows], self.names[rows], {}, self.indices[rows], targets)

    def features(self, config: AudioConfig, frames: int) -> Tensor:
        """(B, T, F) normalised log-mel, made on whichever device the batch lies."""
        return audio.log_mel(self.waveforms.float() / 32768, config, frames=frames, lengths=self.lengths)

    def to(self, device: torch.device | str) -> "Batch":
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor) and name != "lengths"
        }
        return self._replace(**moved)


class Corpus(Protocol):
    """What a training run draws its pieces from."""

    clips: Sequence[Clip]

    def cut(self, indices: np.ndarray, fractions: np.ndarray, keys: Sequence[tuple[int, ...]]) -> Batch:
        """One piece of each clip; where it starts is a fraction (0 to 1) of the room that a longer clip leaves. ``keys``
        seed the choice of a clip that stands in for an unreadable one."""


@dataclass
class Files:
    """A corpus that is read, piece by piece, when it is needed."""

    clips: Sequence[Clip]
    samples: int  # S

    def cut(self, indices: np.ndarray, fractions: np.ndarray, keys: Sequence[tuple[int, ...]]) -> Batch:
        waveforms = torch.zeros(len(indices), self.samples, dtype=torch.int16)
        lengths = torch.zeros(len(indices), dtype=torch.int64)
        names, unreadable, indices = [], {}, indices.copy()
        for row, (index, fraction, key) in enumerate(zip(indices, fractions, keys, strict=True)):
            stand_ins = np.random.default_rng([*key, 1])
            for _ in range(TRIES):
                clip = self.clips[index]
                if clip.name not in unreadable:
                    try:
                        piece = to_int16(read_piece(clip, float(fraction), self.samples))
                        break
                    except (audio.AudioError, OSError) as error:
                        unreadable[clip.name] = str(error)
                index = int(stand_ins.integers(len(self.clips)))
            else:
                raise DataError(
                    f"No clip that can be read was found in {TRIES} draws from {len(self.clips)}; "
                    f"one that cannot: {unreadable[clip.name]}"
                )
            waveforms[row, : len(piece)] = piece
            lengths[row], indices[row] = len(piece), index
            names.append(clip.name)
        return Batch(waveforms, lengths, names, unreadable, torch.from_numpy(indices))


def read_piece(clip: Clip, fraction: float, samples: int) -> Tensor:
    """(at most ``samples``,) float32 of a clip; of a longer one, only the piece is read."""
    source = clip.open()
    whole = round(audio.info(source).seconds * audio.SAMPLE_RATE)
    if whole <= samples:
        return audio.load_waveform(source)[:samples]
    start = int(fraction * (whole - samples + 1))
    return audio.load_waveform(source, start / audio.SAMPLE_RATE, samples / audio.SAMPLE_RATE)[:samples]


def to_int16(waveform: Tensor) -> Tensor:
    return (waveform * 32768).round().clamp(-32768, 32767).to(torch.int16)


class Memory:
    """A corpus that is held whole, as 16-bit samples, on the device that trains: no loader is needed."""

    def __init__(
        self,
        clips: Sequence[Clip],
        samples: int,
        device: torch.device | str = "cpu",
        workers: int = 2,
        progress: bool = False,
    ) -> None:
        self.unreadable: dict[str, str] = {}

        def decode(clip: Clip) -> Tensor | None:
            try:
                return to_int16(audio.load_waveform(clip.open()))
            except (audio.AudioError, OSError) as error:
                self.unreadable[clip.name] = str(error)
                return None

        with ThreadPoolExecutor(max(workers, 1)) as pool:
            decoded = list(tqdm(pool.map(decode, clips), "decoding", len(clips), disable=not progress))
        self.lengths = np.array([0 if waveform is None else len(waveform) for waveform in decoded])
        if not self.lengths.any():
            raise DataError(
                f"None of the {len(clips)} clips can be read; one of them: {next(iter(self.unreadable.values()))}"
            )
        self.clips, self.samples = clips, samples
        self.starts = np.concatenate(([0], self.lengths.cumsum()[:-1]))
        readable = [waveform for waveform in decoded if waveform is not None]
        self.store = torch.cat([*readable, torch.zeros(samples, dtype=torch.int16)]).to(device)
        self.windows = self.store.unfold(0, samples, 1)  # a view: row i is the S samples from i on

    def cut(self, indices: np.ndarray, fractions: np.ndarray, keys: Sequence[tuple[int, ...]]) -> Batch:
        indices = indices.copy()
        for row in np.flatnonzero(self.lengths[indices] == 0).tolist():
            stand_ins = np.random.default_rng([*keys[row], 1])
            while self.lengths[indices[row]] == 0:
                indices[row] = stand_ins.integers(len(self.clips))
        room = np.maximum(self.lengths[indices] - self.samples + 1, 0)
        starts = self.starts[indices] + (fractions * room).astype(np.int64)
        device = self.store.device
        lengths = torch.from_numpy(np.minimum(self.lengths[indices], self.samples))
        waveforms = self.windows[beside(torch.from_numpy(starts), self.store)]
        own = torch.arange(self.samples, device=device) < beside(lengths[:, None], waveforms)
        names = [self.clips[index].name for index in indices]
        return Batch(waveforms * own, lengths, names, {}, torch.from_numpy(indices))


@dataclass
class Plan:
    """Which clips, cut where, stand in the batch of a step. ``rows`` are the ones that this process takes of a global batch."""

    corpus: Corpus
    batch: int  # B, over all processes
    seed: int
    rows: slice = field(default_factory=lambda: slice(None))
    _order: tuple[int, np.ndarray] = field(default=(-1, np.empty(0, dtype=np.int64)), init=False, repr=False)

    def __getitem__(self, step: int) -> Batch:
        places = self.places(step)
        keys = [(self.seed, int(place)) for place in places]
        fractions = np.array([np.random.default_rng([*key, 0]).random() for key in keys])
        return self.corpus.cut(self.indices(places), fractions, keys)

    def places(self, step: int) -> np.ndarray:
        """The places of this process in a step's batch, counted from the beginning of the run."""
        return np.arange(step * self.batch, (step + 1) * self.batch)[self.rows]

    def indices(self, places: np.ndarray) -> np.ndarray:
        """Which clips stand there: every one once in each epoch, in an order that the seed and the epoch decide."""
        count = len(self.corpus.clips)
        return np.array([self._permutation(place // count)[place % count] for place in places])

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch, 3]).permutation(len(self.corpus.clips)))
        return self._order[1]


class _Steps(torch.utils.data.Dataset[Batch | DataError]):
    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __getitem__(self, step: int) -> Batch | DataError:
        try:
            return self.plan[step]
        except DataError as error:  # raised here, it would reach the user wrapped in this process's trace
            return error


def _undisturbed(worker: int) -> None:
    """Ctrl-C and an end asked of the whole process group are the training process's business: it ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batches(plan: Plan, steps: range, workers: int = 0, pin: bool = False) -> Generator[Batch, None, None]:
    """The batches of these steps in order, read ahead by ``workers`` processes when the corpus is one of files."""
    if isinstance(plan.corpus, Memory) or workers == 0:
        yield from map(plan.__getitem__, steps)
        return
    loader = torch.utils.data.DataLoader(
        _Steps(plan), batch_size=None, sampler=steps, num_workers=workers, pin_memory=pin, prefetch_factor=AHEAD,
        worker_init_fn=_undisturbed,
    )  # type: ignore[arg-type]  # fmt: skip
    for batch in _started(loader):  # in no variable: a traceback would keep it, and its workers, alive
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _started(loader: Iterable[Batch | DataError]) -> Iterator[Batch | DataError]:
    with warnings.catch_warnings():  # PyTorch forks its workers, of which Python 3.12 and later warn
        warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
        return iter(loader)


def statistics(
    clips: Sequence[Clip], limit: int = 10_000, seed: int = 0, progress: bool = False
) -> tuple[float, float, int]:
    """(mean, standard deviation, clips) of the un-normalised log-mel of at most ``limit`` clips: what normalises a corpus."""
    chosen = np.random.default_rng([seed, 4]).permutation(len(clips))[:limit]
    count, total, squares, used = 0, 0.0, 0.0, 0
    for index in tqdm(chosen, "statistics", disable=not progress):
        try:
            fbank = audio.kaldi_fbank(read_piece(clips[index], 0.5, 10 * audio.SAMPLE_RATE)).double()
        except (audio.AudioError, OSError):
            continue
        count, used = count + fbank.numel(), used + 1
        total, squares = total + float(fbank.sum()), squares + float(fbank.square().sum())
    if not count:
        raise DataError(f"None of the {len(chosen)} clips can be read.")
    mean = total / count
    return mean, max(squares / count - mean**2, 0.0) ** 0.5, used
