"""How well a model hears and draws the hidden patches of sounds that it has never met, beside rivals that need no model.

Axes: T frames, F mel bins, N patches, M hidden patches, P values in a patch. An evaluation is a function of the model, the
clips, their order and the seed: every clip is cut in its middle and hidden the same way every time.
"""

import csv
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import LaplacianNd, splu
from torch import Tensor
from tqdm.auto import tqdm

from ssast_lab import audio, data, objectives
from ssast_lab.analysis import Excerpt, Reconstruction, draw_mask, excerpt, reconstruct, visible_mean_mse
from ssast_lab.config import ConfigError, MaskConfig
from ssast_lab.model import SSAST
from ssast_lab.patches import PatchGrid, unpatchify

ALL = "all"  # the kind of a clip of which nothing else is known, and of all clips together


@dataclass(frozen=True)
class Outcome:
    """One clip under one mask."""

    name: str
    kind: str
    count: int  # of patches hidden in a sound that fills the window
    hidden: int  # M, of this one
    nce: float  # nats, the softmax over the true patches (equation 1 of the paper)
    accuracy: float  # share of the hidden patches that were recognised
    mse: float  # squared normalised log-mel
    rivals: dict[str, float]  # name -> MSE of drawing the hidden patches that way

    @property
    def better(self) -> float:
        """The MSE of the rival that does better on this very clip."""
        return min(self.rivals.values())


@dataclass(frozen=True)
class Score:
    """Means over the clips of one kind."""

    kind: str
    count: int  # of patches hidden in a sound that fills the window
    clips: int
    nce: float  # nats
    accuracy: float
    chance: float  # the accuracy of guessing
    mse: float
    rivals: dict[str, float]
    better: float  # the MSE of the rival that does better, clip by clip
    lower: float  # 1 - mse / better: how far the model is below that; 0 where the rivals are perfect


@dataclass(frozen=True)
class Report:
    outcomes: tuple[Outcome, ...]
    unreadable: dict[str, str]  # name -> why, of the clips that were left out

    @property
    def scores(self) -> tuple[Score, ...]:
        """For every kind, and for all clips together at the end: one score per count."""
        kinds = sorted({outcome.kind for outcome in self.outcomes} - {ALL})
        counts = sorted({outcome.count for outcome in self.outcomes})
        return tuple(
            _mean(kind, count, [o for o in self.outcomes if o.count == count and kind in (o.kind, ALL)])
            for kind in [*kinds, ALL]
            for count in counts
        )

    def __str__(self) -> str:
        rivals = list(self.outcomes[0].rivals)
        head = ["kind", "hidden", "clips", "InfoNCE", "accuracy", "chance", "MSE", *rivals, "better rival", "lower by"]
        rows = [
            [s.kind, f"{s.count}", f"{s.clips}", f"{s.nce:.3f}", f"{s.accuracy:.2%}", f"{s.chance:.2%}", f"{s.mse:.4f}",
             *(f"{s.rivals[name]:.4f}" for name in rivals), f"{s.better:.4f}", f"{s.lower:.1%}"]
            for s in self.scores
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths)))
            for row in [head, *rows]
        ]
        if self.unreadable:
            name, why = next(iter(self.unreadable.items()))
            lines.append(f"Left out: {len(self.unreadable)} clips, such as {name}: {why}")
        return "\n".join(lines)


def _mean(kind: str, count: int, outcomes: Sequence[Outcome]) -> Score:
    def mean(values: Iterable[float]) -> float:
        return math.fsum(values) / len(outcomes)

    mse, better = mean(o.mse for o in outcomes), mean(o.better for o in outcomes)
    return Score(
        kind=kind,
        count=count,
        clips=len(outcomes),
        nce=mean(o.nce for o in outcomes),
        accuracy=mean(o.accuracy for o in outcomes),
        chance=mean(1 / o.hidden for o in outcomes),
        mse=mse,
        rivals={name: mean(o.rivals[name] for o in outcomes) for name in outcomes[0].rivals},
        better=better,
        lower=1 - mse / better if better else 0.0,
    )


def evaluate(
    model: SSAST,
    sources: Iterable[str | os.PathLike[str] | data.Clip],
    counts: Sequence[int] = (100, 250, 400),
    seed: int = 0,
    batch: int = 8,
    progress: bool = False,
) -> Report:
    """What a pretext model does on the clips of ``sources`` (anything that :func:`ssast_lab.data.find_clips` finds, or clips).

    Of a clip that is longer than the model's window the middle is taken. Masks are keyed by (seed, clip's number, count):
    clusters of 3 to 5 for patches, single frames for frame models. Where a clip is shorter than the window, it is taken at its own length, and the
    same share of its patches is hidden. Clips that cannot be read or have fewer than two patches are left out.
    """
    grid = model.grid
    if not counts or not all(1 <= count < grid.count for count in counts):
        raise ConfigError(
            f"This model cuts a sound into {grid.count} patches, of which 1 to {grid.count - 1} can be hidden, "
            f"not {', '.join(map(str, counts)) or 'none'}."
        )
    clips = _clips(sources)
    samples = audio.samples_of(grid.frames)
    kinds, unreadable, outcomes = kinds_of(clips), dict[str, str](), list[Outcome]()
    waiting: dict[int, list[tuple[int, Excerpt]]] = {}  # by the number of patches
    for index, clip in enumerate(tqdm(clips, "evaluating", disable=not progress)):
        try:
            piece = excerpt(data.read_piece(clip, 0.5, samples), model.config)
        except (audio.AudioError, OSError) as error:
            unreadable[clip.name] = str(error)
            continue
        room = piece.grid.count
        if room < 2:
            unreadable[clip.name] = "It is shorter than two patches."
            continue
        alike = waiting.setdefault(room, [])
        alike.append((index, piece))
        if len(alike) == batch:
            outcomes += _outcomes(model, waiting.pop(room), clips, kinds, counts, seed)
    for alike in waiting.values():
        outcomes += _outcomes(model, alike, clips, kinds, counts, seed)
    if not outcomes:
        raise data.DataError(
            f"None of the {len(clips)} clips can be evaluated on; one of them: {next(iter(unreadable.values()), '')}"
        )
    return Report(tuple(outcomes), unreadable)


@torch.no_grad()
def _outcomes(
    model: SSAST,
    pieces: list[tuple[int, Excerpt]],
    clips: Sequence[data.Clip],
    kinds: Sequence[str],
    counts: Sequence[int],
    seed: int,
) -> list[Outcome]:
    """Of numbered excerpts of equal length, under each count."""
    device = model.mask_token.device
    fbank = torch.stack([piece.fbank for _, piece in pieces]).to(device)
    found = []
    for count in counts:
        masks = torch.stack([_mask(model, piece, count, (seed, index)) for index, piece in pieces])
        hidden = int(masks[0].sum())
        on_device = masks.to(device)
        losses = objectives.per_clip(model(fbank, on_device), model.targets(fbank, on_device))
        sounds = [piece.fbank for _, piece in pieces]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            baseline_mse = list(pool.map(rivals, sounds, masks, repeat(pieces[0][1].grid)))
        figures = torch.stack((losses.nce, losses.accuracy, losses.mse), 1).tolist()
        for (index, _), (nce, accuracy, mse), others in zip(pieces, figures, baseline_mse, strict=True):
            found.append(Outcome(clips[index].name, kinds[index], count, hidden, nce, accuracy, mse, others))
    return found


def examples(
    model: SSAST,
    sources: Iterable[str | os.PathLike[str] | data.Clip],
    number: int = 8,
    count: int = 400,
    seed: int = 0,
) -> list[tuple[str, Reconstruction]]:
    """(kind and name, what :func:`evaluate` measures) of ``number`` of the same clips, evenly spread over the list; those
    that cannot be read are passed by."""
    clips = _clips(sources)
    kinds, samples = kinds_of(clips), audio.samples_of(model.grid.frames)
    shown = []
    for index in data.spread(len(clips), number):
        try:
            piece = excerpt(data.read_piece(clips[index], 0.5, samples), model.config)
        except (audio.AudioError, OSError):
            continue
        if piece.grid.count > 1:
            name = Path(clips[index].member or clips[index].path).stem
            mask = _mask(model, piece, count, (seed, index))
            called = name if kinds[index] == ALL else f"{kinds[index]} {name}"
            shown.append((called, reconstruct(model, piece.fbank, mask)))
    return shown


def _clips(sources: Iterable[str | os.PathLike[str] | data.Clip]) -> list[data.Clip]:
    return [
        clip
        for source in sources
        for clip in ([source] if isinstance(source, data.Clip) else data.find_clips([source]))
    ]


def _mask(model: SSAST, piece: Excerpt, count: int, key: tuple[int, int]) -> Tensor:
    """(N,) bool: hides ``count`` patches of a whole window, or the same share of a shorter sound; keyed by (seed, clip)."""
    seed, index = key
    room = piece.grid.count
    hidden = min(max(round(count * room / model.grid.count), 1), room - 1)
    state = np.random.SeedSequence([seed, index, count, data.Stream.SCORED_MASK]).generate_state(1, np.uint64)
    return draw_mask(piece, MaskConfig(hidden, (3, 5) if model.grid.rows > 1 else None), int(state[0] >> 1))


def kinds_of(clips: Iterable[data.Clip]) -> list[str]:
    """The kind of sound of each clip (speech, music, effect) as the manifest of a corpus of ``ssast-lab data corpus`` says,
    which lies beside the folder of its shards; "all" for any other clip."""
    manifests: dict[Path, dict[tuple[str, str], str]] = {}
    kinds = []
    for clip in clips:
        shard = Path(os.path.abspath(clip.path))
        corpus = shard.parent.parent
        if corpus not in manifests:
            manifests[corpus] = _read_kinds(corpus / "manifest.tsv")
        kinds.append(manifests[corpus].get((f"{shard.parent.name}/{shard.name}", Path(clip.member).stem), ALL))
    return kinds


def _read_kinds(manifest: Path) -> dict[tuple[str, str], str]:
    try:
        with manifest.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            return {(row["shard"], row["clip"]): row["kind"] for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError):  # there is none, or it is something else's
        return {}


# --- rivals -------------------------------------------------------------------------------------------------------


def rivals(sound: Tensor, mask: Tensor, grid: PatchGrid) -> dict[str, float]:
    """(T, F) log-mel, (N,) mask -> the MSE over the hidden patches of each way to draw them without a model:
    every mel bin's visible mean, and :func:`linear_in_time` for frame models or :func:`linear_inpainting` for others."""
    where = unpatchify(mask[:, None].expand(-1, grid.values).float(), grid)[: len(sound)] > 0
    picture, hidden = sound.double().numpy(), where.numpy()
    if grid.rows == 1:
        name, drawn = "linear in time", linear_in_time(picture, hidden[:, 0])
    else:
        name, drawn = "linear inpainting", linear_inpainting(picture, hidden)
    mse = float(np.square(drawn - picture)[hidden].mean())
    return {name: mse, "bin mean": visible_mean_mse(sound, where)}


def linear_in_time(sound: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(T, F), (T,) bool -> (T, F): hidden frames lie on the line between the visible frames before and after them; at the
    ends the nearest visible frame is held."""
    visible = sound[~hidden]
    numbers = np.arange(len(visible))
    places = np.interp(np.arange(len(sound)), np.flatnonzero(~hidden), numbers)  # 2.5 is half way from visible 2 to 3
    before = places.astype(int)
    after = np.minimum(before + 1, len(visible) - 1)
    share = (places - before)[:, None]
    return (1 - share) * visible[before] + share * visible[after]


def linear_inpainting(sound: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(T, F), (T, F) bool -> (T, F): what linear interpolation is in two dimensions. Every hidden value is the mean of its
    neighbours, four or at the borders fewer, and visible ones are as they are: Laplace's equation, solved exactly.

    That is a stronger rival than linear interpolation over a triangulation of the visible values.
    """
    gaps, drawn = hidden.ravel(), sound.flatten()
    equations = LaplacianNd(sound.shape, boundary_conditions="neumann", dtype=np.float64).tosparse().tocsr()[gaps]
    drawn[gaps] = splu(equations[:, gaps].tocsc()).solve(-(equations[:, ~gaps] @ drawn[~gaps]))
    return drawn.reshape(sound.shape)
