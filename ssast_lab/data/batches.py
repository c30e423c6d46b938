"""Which piece of which clip stands in which batch, and how it becomes features.

Axes: B clips of a batch, S samples at the rate of the corpus. A batch is a function of (seed, step): which clips, where they are cut, and
what stands in for an unreadable one are drawn from generators keyed by the place in the run, never from global random state.
"""

import gc
import signal
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ssast_lab import audio
from ssast_lab.config import AudioConfig
from ssast_lab.data.clips import Clip, read_piece, read_whole, told
from ssast_lab.data.errors import DataError
from ssast_lab.data.streams import Stream
from ssast_lab.patches import PatchGrid, to_device_of

AHEAD = 4  # batches that each worker reads ahead
FULL_SCALE = 32768  # of 16-bit samples
TRIES = 1000  # draws of a clip that stands in for an unreadable one before a corpus is given up


class Batch(NamedTuple):
    """Pieces of sound, equally long, zero-padded at the end where a clip is shorter."""

    waveforms: Tensor  # (B, S) float32, 1 is full scale
    lengths: Tensor  # (B,) samples of each that are sound; on the CPU, where they are looked at
    names: list[str]  # (B,) which clip, or clips, each was cut from
    unreadable: dict[str, str]  # name -> why, of clips that others stand in for
    indices: Tensor  # (B,) the number of that clip in its corpus, the first of several
    targets: Tensor | None = None  # (B, L) which labels each has, where there are any
    changes: "Changes | None" = None  # what is to be done to them, where they are augmented
    noticed: dict[str, str] | None = None  # name -> what should be known of a clip that was read
    # (B, T) on the CPU: which frames of each make up its window; it leaps where another clip begins
    frames: Tensor | None = None

    def part(self, rows: slice) -> "Batch":
        """Some of its rows; what could not be read is not repeated."""
        targets = None if self.targets is None else self.targets[rows]
        changes = None if self.changes is None else self.changes.part(rows)
        frames = None if self.frames is None else self.frames[rows]
        return Batch(
            self.waveforms[rows],
            self.lengths[rows],
            self.names[rows],
            {},
            self.indices[rows],
            targets,
            changes,
            None,
            frames,
        )

    def chosen(self, rows: Sequence[int]) -> "Batch":
        """The rows of these numbers, of clips that are not augmented."""
        places = list(rows)
        names = [self.names[row] for row in places]
        return Batch(self.waveforms[places], self.lengths[places], names, {}, self.indices[places])

    def told_of(self, other: "Batch") -> "Batch":
        """With what was met while another one was read, which goes with it."""
        noticed = (self.noticed or {}) | (other.noticed or {})
        return self._replace(unreadable=self.unreadable | other.unreadable, noticed=noticed)

    def features(self, config: AudioConfig, frames: int, hops: Tensor | None = None) -> Tensor:
        """(B, T, F) normalised log-mel of a window of so many frames, made on whichever device the batch lies; ``hops`` are those
        of :func:`ssast_lab.audio.log_mel`."""
        if self.frames is None:
            return audio.log_mel(self.waveforms, config, frames, self.lengths, hops)
        sound = audio.log_mel(self.waveforms, config, int(self.frames.max()) + 1, self.lengths, hops)
        return sound.gather(1, to_device_of(self.frames, sound)[..., None].expand(-1, -1, sound.shape[2]))

    def clips_of(self, grid: PatchGrid) -> Tensor | None:
        """(B, N) on the CPU: which clip of its row each patch of the window is of; None where every row has one only."""
        if self.frames is None:
            return None
        begins = torch.nn.functional.pad(self.frames.diff(dim=1) != 1, (1, 0))
        return begins.cumsum(1)[:, :: grid.shape[1]].repeat(1, grid.rows)

    def is_sound(self, config: AudioConfig, frames: int, hops: Tensor) -> Tensor:
        """(B, T) bool, on the CPU: the frames of a window of so many that are no padding."""
        if self.frames is not None:
            return torch.ones(self.frames.shape, dtype=torch.bool)
        return audio.within(config.frames_of(self.lengths, hops), frames)

    def to(self, device: torch.device | str) -> "Batch":
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor) and name not in ("lengths", "frames")
        }
        if self.changes is not None:
            moved["changes"] = self.changes._replace(partners=self.changes.partners.to(device))
        return self._replace(**moved)


class Changes(NamedTuple):
    """What is to be done to the clips of a batch (:mod:`ssast_lab.learning.augment`). Its tensors lie on the CPU."""

    hop: Tensor  # (B,) samples from one frame to the next
    level: Tensor  # (B,) dB
    tilt: Tensor  # (B,) dB
    mixed: Tensor  # (R,) the rows that have a partner, in order
    partner_level: Tensor  # (R,) dB
    partners: Batch  # R clips, each to be mixed into one of these rows

    def part(self, rows: slice) -> "Changes":
        """What is done to some rows of the batch, one after the other."""
        begin, end, _ = rows.indices(len(self.hop))
        first, last = torch.searchsorted(self.mixed, torch.tensor([begin, end])).tolist()
        own = slice(first, last)
        return Changes(
            self.hop[rows], self.level[rows], self.tilt[rows],
            self.mixed[own] - begin, self.partner_level[own], self.partners.part(own),
        )  # fmt: skip


class Corpus(Protocol):
    """What a training run draws its pieces from."""

    clips: Sequence[Clip]

    def crop(
        self,
        indices: np.ndarray,
        fractions: np.ndarray,
        keys: Sequence[tuple[int, ...]],
        most: np.ndarray | None = None,
    ) -> Batch:
        """One piece of each clip, of ``most`` (B,) samples or those of the window; where it starts is a fraction (0 to 1) of the
        room that a longer clip leaves. ``keys`` seed the choice of a clip that stands in for an unreadable one."""


@dataclass
class Files:
    """A corpus that is read, piece by piece, when it is needed."""

    clips: Sequence[Clip]
    samples: int  # S
    rate: int = audio.SAMPLE_RATE  # Hz

    def crop(
        self,
        indices: np.ndarray,
        fractions: np.ndarray,
        keys: Sequence[tuple[int, ...]],
        most: np.ndarray | None = None,
    ) -> Batch:
        waveforms = torch.zeros(len(indices), self.samples)
        lengths = torch.zeros(len(indices), dtype=torch.int64)
        names, indices = [], indices.copy()
        unreadable: dict[str, str] = {}
        noticed: dict[str, str] = {}
        limits = np.full(len(indices), self.samples) if most is None else most
        for row, (index, fraction, key, limit) in enumerate(zip(indices, fractions, keys, limits, strict=True)):
            stand_ins = np.random.default_rng([*key, Stream.STAND_IN])
            for _ in range(TRIES):
                clip = self.clips[index]
                if clip.name not in unreadable:
                    notices: list[audio.AudioWarning] = []
                    try:
                        waveform = read_piece(clip, float(fraction), int(limit), notices, self.rate)
                        noticed |= told(clip, notices)
                        break
                    except (audio.AudioError, OSError) as error:
                        unreadable[clip.name] = str(error)
                index = int(stand_ins.integers(len(self.clips)))
            else:
                raise DataError(
                    f"No clip that can be read was found in {TRIES} draws from {len(self.clips)}; "
                    f"one that cannot: {unreadable[clip.name]}"
                )
            waveforms[row, : len(waveform)] = waveform
            lengths[row], indices[row] = len(waveform), index
            names.append(clip.name)
        return Batch(waveforms, lengths, names, unreadable, torch.from_numpy(indices), noticed=noticed)


def compact(waveform: Tensor) -> Tensor:
    """(S,) float32 as int16 where that changes no sample, else as it is."""
    steps = waveform * FULL_SCALE
    exact = torch.equal(steps, steps.round().clamp(-FULL_SCALE, FULL_SCALE - 1))
    return steps.to(torch.int16) if exact else waveform


def expanded(waveform: Tensor) -> Tensor:
    """The inverse of :func:`compact`."""
    return waveform if waveform.is_floating_point() else waveform.float() / FULL_SCALE


class Memory:
    """A corpus that is held whole on the device that trains: no loader is needed. Its samples are kept in 16 bits where those
    of every clip are exactly that, as those of 16-bit files at the same rate are, else as they were decoded: a float file may be louder
    than full scale, and what a coder or the resampler gives lies between the steps of 16 bits."""

    def __init__(
        self,
        clips: Sequence[Clip],
        samples: int,
        device: torch.device | str = "cpu",
        workers: int = 2,
        progress: bool = False,
        rate: int = audio.SAMPLE_RATE,
    ) -> None:
        self.unreadable: dict[str, str] = {}
        self.noticed: dict[str, str] = {}

        def decode(clip: Clip) -> Tensor | None:
            notices: list[audio.AudioWarning] = []
            try:
                waveform = compact(read_whole(clip, notices, rate))
                self.noticed |= told(clip, notices)
                return waveform
            except (audio.AudioError, OSError) as error:
                self.unreadable[clip.name] = str(error)
                return None

        different = [*dict.fromkeys(clips)]  # one that is listed several times, to be heard more often, is held once
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            decoded = list(tqdm(pool.map(decode, different), "decoding", len(different), disable=not progress))
        lengths = np.array([0 if waveform is None else len(waveform) for waveform in decoded])
        numbers = {clip: number for number, clip in enumerate(different)}
        which = [numbers[clip] for clip in clips]
        self.lengths = lengths[which]
        if not self.lengths.any():
            raise DataError(
                f"None of the {len(clips)} clips can be read; one of them: {next(iter(self.unreadable.values()))}"
            )
        self.clips, self.samples = clips, samples
        starts = np.concatenate(([0], lengths.cumsum()[:-1]))
        self.starts = starts[which]
        floats = any(waveform is not None and waveform.is_floating_point() for waveform in decoded)
        store = torch.zeros(int(lengths.sum()) + samples, dtype=torch.float32 if floats else torch.int16)
        for number, start in enumerate(starts):  # each is freed once it is copied, so that nothing is held twice
            waveform, decoded[number] = decoded[number], None
            if waveform is not None:
                store[start : start + len(waveform)] = expanded(waveform) if floats else waveform
        self.store = store.to(device)
        self.windows = self.store.unfold(0, samples, 1)  # a view: row i is the S samples from i on

    def crop(
        self,
        indices: np.ndarray,
        fractions: np.ndarray,
        keys: Sequence[tuple[int, ...]],
        most: np.ndarray | None = None,
    ) -> Batch:
        indices = indices.copy()
        for row in np.flatnonzero(self.lengths[indices] == 0).tolist():
            stand_ins = np.random.default_rng([*keys[row], Stream.STAND_IN])
            while self.lengths[indices[row]] == 0:
                indices[row] = stand_ins.integers(len(self.clips))
        limits = np.full(len(indices), self.samples) if most is None else most
        possible_starts = np.maximum(self.lengths[indices] - limits + 1, 0)
        starts = self.starts[indices] + (fractions * possible_starts).astype(np.int64)
        lengths = torch.from_numpy(np.minimum(self.lengths[indices], limits))
        waveforms = expanded(self.windows[to_device_of(torch.from_numpy(starts), self.store)])
        sound = audio.within(to_device_of(lengths, waveforms), self.samples)
        names = [self.clips[index].name for index in indices]
        return Batch(waveforms * sound, lengths, names, {}, torch.from_numpy(indices))


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
        fractions = np.array([np.random.default_rng([*key, Stream.CROP]).random() for key in keys])
        return self.corpus.crop(self.indices(places), fractions, keys)

    def places(self, step: int) -> np.ndarray:
        """The places of this process in a step's batch, counted from the beginning of the run."""
        return np.arange(step * self.batch, (step + 1) * self.batch)[self.rows]

    def indices(self, places: np.ndarray) -> np.ndarray:
        """Which clips stand there: every one once in each epoch, in an order that the seed and the epoch decide."""
        count = len(self.corpus.clips)
        return np.array([self._permutation(place // count)[place % count] for place in places])

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = (
                epoch,
                np.random.default_rng([self.seed, epoch, Stream.ORDER]).permutation(len(self.corpus.clips)),
            )
        return self._order[1]


class _Steps(torch.utils.data.Dataset[Batch | DataError]):
    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __getitem__(self, step: int) -> Batch | DataError:
        try:
            return self.plan[step]
        except DataError as error:  # raised here, it would reach the user wrapped in this process's trace
            return error


def _ignore_signals(worker: int) -> None:
    """Workers ignore Ctrl-C, SIGTERM and SIGHUP, which a terminal sends to all: the training process ends them."""
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)


def batches(plan: Plan, steps: range, workers: int = 0, pin: bool = False) -> Generator[Batch, None, None]:
    """The batches of these steps in order, read ahead by ``workers`` processes when the corpus is one of files."""
    if isinstance(plan.corpus, Memory) or workers == 0:
        yield from map(plan.__getitem__, steps)
        return
    loader = torch.utils.data.DataLoader(
        _Steps(plan), batch_size=None, sampler=steps, num_workers=workers, pin_memory=pin, prefetch_factor=AHEAD,
        worker_init_fn=_ignore_signals,
    )  # type: ignore[arg-type]  # fmt: skip
    for batch in _started(loader):  # in no variable: a traceback would keep it, and its workers, alive
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _started(loader: Iterable[Batch | DataError]) -> Iterator[Batch | DataError]:
    gc.collect()  # or a worker frees what it inherits, such as a filter of libav, and waits for threads that it has not
    with warnings.catch_warnings():  # PyTorch forks its workers, of which Python 3.12 and later warn
        warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
        return iter(loader)


def unreadable(clips: Sequence[Clip], fraction: float, samples: int, rate: int = audio.SAMPLE_RATE) -> dict[str, str]:
    """Name -> why, of clips of which this piece (:func:`ssast_lab.data.read_piece`) cannot be read."""

    def why(clip: Clip) -> str:
        try:
            read_piece(clip, fraction, samples, [], rate)
        except (audio.AudioError, OSError) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:
        reasons = zip(clips, pool.map(why, clips), strict=True)
        return {clip.name: reason for clip, reason in reasons if reason}
