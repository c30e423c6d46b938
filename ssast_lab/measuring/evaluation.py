"""How well a pretext model recognises and reconstructs hidden patches of unseen sounds, beside baselines without a model.

Axes: T frames, F mel bins, N patches, M hidden patches, P values in a patch. An evaluation is a function of the model, the
clips, their order and the seed: of each clip the same stretch is taken and the same patches are hidden every time.
"""

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ssast_lab import audio, data, masking, objectives
from ssast_lab.analysis import (
    Excerpt,
    Reconstruction,
    excerpt,
    linear_in_time,
    linear_inpainting,
    reconstruct,
    visible_mean_mse,
)
from ssast_lab.config import ConfigError, MaskConfig
from ssast_lab.data.corpus import CorpusError, read_rows
from ssast_lab.model import SSAST
from ssast_lab.patches import PatchGrid, unpatchify
from ssast_lab.tables import text_table

ALL = "all"  # the kind of a clip whose kind is unknown, and of all clips together


@dataclass(frozen=True)
class Outcome:
    """One clip under one mask."""

    name: str
    kind: str
    count: int  # patches hidden in a sound that fills the window
    hidden: int  # M, patches hidden in this clip
    nce: float  # nats, the softmax over the true patches (equation 1 of the paper)
    accuracy: float  # share of the hidden patches that were recognised
    mse: float  # squared normalised log-mel
    baselines: dict[str, float]  # name -> MSE of its reconstruction of the hidden patches

    @property
    def better_baseline(self) -> float:
        """The MSE of the baseline that does better on this clip."""
        return min(self.baselines.values())


@dataclass(frozen=True)
class Score:
    """Means over the clips of one kind."""

    kind: str
    count: int  # patches hidden in a sound that fills the window
    clips: int
    nce: float  # nats
    accuracy: float
    chance: float  # the accuracy of guessing
    mse: float
    baselines: dict[str, float]
    better_baseline: float  # the MSE of the baseline that does better, chosen for each clip
    mse_reduction: float  # 1 - mse / better_baseline; 0 where the baselines are perfect


@dataclass(frozen=True)
class Report:
    """What an evaluation found."""

    outcomes: tuple[Outcome, ...]
    unreadable: dict[str, str]  # name of a clip that was left out -> why
    noticed: dict[str, str] = field(default_factory=dict)  # name -> what should be known of a clip that was measured on

    @property
    def scores(self) -> tuple[Score, ...]:
        """One score for each kind and count; those of all clips together come last."""
        kinds = sorted({outcome.kind for outcome in self.outcomes} - {ALL})
        counts = sorted({outcome.count for outcome in self.outcomes})
        return tuple(
            _mean(kind, count, [o for o in self.outcomes if o.count == count and kind in (o.kind, ALL)])
            for kind in [*kinds, ALL]
            for count in counts
        )

    def __str__(self) -> str:
        names = list(self.outcomes[0].baselines)
        head = [
            "kind",
            "hidden",
            "clips",
            "InfoNCE",
            "accuracy",
            "chance",
            "MSE",
            *names,
            "better baseline",
            "MSE reduction",
        ]
        rows = [
            [s.kind, f"{s.count}", f"{s.clips}", f"{s.nce:.3f}", f"{s.accuracy:.2%}", f"{s.chance:.2%}", f"{s.mse:.4f}",
             *(f"{s.baselines[name]:.4f}" for name in names), f"{s.better_baseline:.4f}", f"{s.mse_reduction:.1%}"]
            for s in self.scores
        ]  # fmt: skip
        lines = text_table(head, rows)
        if self.unreadable:
            name, why = next(iter(self.unreadable.items()))
            lines.append(f"Left out: {len(self.unreadable)} clips, such as {name}: {why}")
        lines += data.summary(self.noticed)
        return "\n".join(lines)


def _mean(kind: str, count: int, outcomes: Sequence[Outcome]) -> Score:
    def mean(values: Iterable[float]) -> float:
        return math.fsum(values) / len(outcomes)

    mse, better_baseline = mean(o.mse for o in outcomes), mean(o.better_baseline for o in outcomes)
    return Score(
        kind=kind,
        count=count,
        clips=len(outcomes),
        nce=mean(o.nce for o in outcomes),
        accuracy=mean(o.accuracy for o in outcomes),
        chance=mean(1 / o.hidden for o in outcomes),
        mse=mse,
        baselines={name: mean(o.baselines[name] for o in outcomes) for name in outcomes[0].baselines},
        better_baseline=better_baseline,
        mse_reduction=1 - mse / better_baseline if better_baseline else 0.0,
    )


def evaluate(
    model: SSAST,
    sources: Iterable[str | os.PathLike[str] | data.Clip],
    counts: Sequence[int] = (100, 250, 400),
    seed: int = 0,
    batch: int = 8,
    progress: bool = False,
) -> Report:
    """Measures a pretext model on the clips of ``sources``: clips, or anything that :func:`ssast_lab.data.find_clips` finds.

    Of a clip longer than the model's window the middle is taken; a shorter one is taken at its own length, and the same share
    of its patches is hidden. Masks are keyed by (seed, the clip's number, count): clusters of 3 to 5 for patches, single
    frames for frame models. Clips that cannot be read or have fewer than two patches are left out.

    :class:`ssast_lab.config.ConfigError` where no count, or none that the model allows, is given;
    :class:`ssast_lab.data.DataError` where no clip is left.
    """
    grid = model.grid
    if not counts or not all(1 <= count < grid.count for count in counts):
        raise ConfigError(
            f"This model cuts a sound into {grid.count} patches, of which 1 to {grid.count - 1} can be hidden, "
            f"not {', '.join(map(str, counts)) or 'none'}."
        )
    clips = _clips(sources)
    samples, rate = _window(model)
    kinds, unreadable, noticed, outcomes = kinds_of(clips), dict[str, str](), dict[str, str](), list[Outcome]()
    waiting: dict[int, list[tuple[int, Excerpt]]] = {}  # by the number of patches, until they fill a batch
    for index, clip in enumerate(tqdm(clips, "evaluating", disable=not progress)):
        notices: list[audio.AudioWarning] = []
        try:
            sound = excerpt(data.read_piece(clip, data.MIDDLE, samples, notices, rate), model.config)
        except (audio.AudioError, OSError) as error:
            unreadable[clip.name] = str(error)
            continue
        noticed |= data.told(clip, notices)
        patches = sound.grid.count
        if patches < 2:
            unreadable[clip.name] = "It is shorter than two patches."
            continue
        equally_long = waiting.setdefault(patches, [])
        equally_long.append((index, sound))
        if len(equally_long) == batch:
            outcomes += _outcomes(model, waiting.pop(patches), clips, kinds, counts, seed)
    for equally_long in waiting.values():
        outcomes += _outcomes(model, equally_long, clips, kinds, counts, seed)
    if not outcomes:
        raise data.DataError(
            f"None of the {len(clips)} clips can be evaluated on. One of them: {next(iter(unreadable.values()), '')}"
        )
    return Report(tuple(outcomes), unreadable, noticed)


@torch.no_grad()
def _outcomes(
    model: SSAST,
    numbered: list[tuple[int, Excerpt]],
    clips: Sequence[data.Clip],
    kinds: Sequence[str],
    counts: Sequence[int],
    seed: int,
) -> list[Outcome]:
    """Of excerpts of equal length, each with its clip's number, under each count."""
    fbanks = [sound.fbank for _, sound in numbered]
    batch = torch.stack(fbanks).to(model.mask_token.device)
    outcomes = []
    for count in counts:
        masks = torch.stack([_mask(model, sound, count, (seed, index)) for index, sound in numbered])
        hidden = int(masks[0].sum())
        losses = objectives.per_clip(model(batch, masks), model.targets(batch, masks))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            baselines = list(pool.map(baseline_mse, fbanks, masks, repeat(numbered[0][1].grid)))
        figures = torch.stack((losses.nce, losses.accuracy, losses.mse), 1).tolist()
        for (index, _), (nce, accuracy, mse), others in zip(numbered, figures, baselines, strict=True):
            outcomes.append(Outcome(clips[index].name, kinds[index], count, hidden, nce, accuracy, mse, others))
    return outcomes


def examples(
    model: SSAST,
    sources: Iterable[str | os.PathLike[str] | data.Clip],
    number: int = 8,
    count: int = 400,
    seed: int = 0,
) -> list[tuple[str, Reconstruction]]:
    """(kind and name, reconstruction) of ``number`` of the clips that :func:`evaluate` measures, evenly spread over the list,
    with the same masks. Clips that cannot be read are skipped."""
    clips = _clips(sources)
    kinds, (samples, rate) = kinds_of(clips), _window(model)
    shown = []
    for index in data.spread(len(clips), number):
        try:
            sound = excerpt(data.read_piece(clips[index], data.MIDDLE, samples, [], rate), model.config)
        except (audio.AudioError, OSError):
            continue
        if sound.grid.count > 1:
            name = Path(clips[index].member or clips[index].path).stem
            mask = _mask(model, sound, count, (seed, index))
            caption = name if kinds[index] == ALL else f"{kinds[index]} {name}"
            shown.append((caption, reconstruct(model, sound.fbank, mask)))
    return shown


def _window(model: SSAST) -> tuple[int, int]:
    """S, and at which rate in Hz."""
    features = model.config.audio
    return features.samples_of(model.grid.frames), features.sample_rate


def _clips(sources: Iterable[str | os.PathLike[str] | data.Clip]) -> list[data.Clip]:
    return [
        clip
        for source in sources
        for clip in ([source] if isinstance(source, data.Clip) else data.find_clips([source]))
    ]


def _mask(model: SSAST, sound: Excerpt, count: int, key: tuple[int, int]) -> Tensor:
    """(N,) bool: hides ``count`` patches of a whole window, or the same share of a shorter sound; keyed by (seed, clip)."""
    hidden = MaskConfig(
        masking.of_shorter(count, sound.grid.count, model.grid.count), masking.usual_cluster(model.grid)
    )
    return masking.draw_mask(sound.grid, hidden, generator=data.generator(*key, count, data.Stream.SCORED_MASK))


def kinds_of(clips: Iterable[data.Clip]) -> list[str]:
    """The kind of each clip (speech, music, effect), as the corpus's manifest says: ``ssast-lab data corpus`` writes it beside
    the folder of the shards. "all" for clips of no such corpus."""
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
        return {(row["shard"], row["clip"]): row["kind"] for row in read_rows(manifest)}
    except CorpusError:  # there is none, or it is no corpus's
        return {}


# --- baselines ----------------------------------------------------------------------------------------------------


def baseline_mse(sound: Tensor, mask: Tensor, grid: PatchGrid) -> dict[str, float]:
    """(T, F) log-mel, (N,) mask -> the MSE over the hidden patches of each reconstruction without a model: the visible mean
    of every mel bin, and :func:`ssast_lab.analysis.linear_in_time` for frame models or :func:`ssast_lab.analysis.linear_inpainting` for others."""
    where = unpatchify(mask[:, None].expand(-1, grid.values).float(), grid)[: len(sound)] > 0
    picture, hidden = sound.double().numpy(), where.numpy()
    if grid.rows == 1:
        name, drawn = "linear in time", linear_in_time(picture, hidden[:, 0])
    else:
        name, drawn = "linear inpainting", linear_inpainting(picture, hidden)
    mse = float(np.square(drawn - picture)[hidden].mean())
    return {name: mse, "bin mean": visible_mean_mse(sound, where)}
