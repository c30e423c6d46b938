"""The view of a reconstruction: from an excerpt and a mask to the record and its figures."""

import html
import math
from typing import Any

import torch
from torch import Tensor

from ssast_lab import masking, stage
from ssast_lab.analysis import Excerpt, Reconstruction
from ssast_lab.app.sources import Model, Sound, load_model
from ssast_lab.config import AudioConfig, MaskConfig
from ssast_lab.patches import PatchGrid
from ssast_lab.stage import PLURAL

PAPER, RANDOM, OFFICIAL = "3 to 5 (paper)", "random", "official code"
CLUSTERS = (
    {PAPER: masking.CLUSTER}
    | {str(size): (size, size) for size in range(1, 9)}
    | {RANDOM: None, OFFICIAL: masking.CLUSTER}
)
SEEDS = 2**31
NOTHING_HIDDEN = '<p class="hint">Nothing is hidden, so the model has nothing to draw: paint over some patches.</p>'
NEXT_TO_NOTHING = (
    '<p class="hint" id="silent">There is next to no sound in this window: to draw it is no feat and to recognise its patches '
    "mere luck, so these figures say nothing of what the model can do.</p>"
)
QUIET = 24 / stage.DECIBEL  # nats above digital silence: no louder is the noise of 16 bits
SHARE = 400 / 512  # of the patches are hidden at first, as in the paper


def hidden_count(portion: float, now: Excerpt) -> int:
    """How many patches make up a share of an excerpt's, and at least one."""
    return min(max(round(portion * now.grid.count), 1), now.grid.count)


def draw(grid: PatchGrid, cluster: str, count: int, seed: int, batch: int | None = None) -> Tensor:
    """(N,) bool, or (B, N): masks of the kind that ``CLUSTERS`` names; of frames, single ones are hidden at random. The
    published algorithm leaves two patches visible."""
    generator = torch.Generator().manual_seed(seed)
    if cluster == OFFICIAL and grid.rows > 1:
        return masking.official_mask(grid, min(count, grid.count - 2), generator=generator, batch=batch)
    blocks = CLUSTERS[cluster] if grid.rows > 1 else None
    return masking.draw_mask(grid, MaskConfig(count, blocks), generator=generator, batch=batch)


def drawn_mask(
    piece: Excerpt, model: Model, count: float | None, cluster: str, seed: float | None, painted: Tensor | None = None
) -> Tensor:
    """(N,) bool: the mask that was painted, (rows, columns), as long as it fits the excerpt; else one by count and chance."""
    if painted is not None and painted.shape == (piece.grid.rows, piece.grid.columns):
        return painted.flatten()
    return draw(piece.grid, cluster, min(max(round(count or 1), 1), piece.grid.count), int(seed or 0) % SEEDS)


def analyse(piece: Excerpt, model: Model, mask: Tensor) -> Reconstruction:
    """What the model makes of an excerpt."""
    return stage.analyse(load_model(model.path), piece, mask)


def silent(record: Reconstruction, config: AudioConfig) -> bool:
    """Whether there is next to no sound in it."""
    return float(record.original.max()) * 2 * config.std + config.mean < stage.SILENCE + QUIET


def numbers(record: Reconstruction, kind: str) -> dict[str, Any]:
    """The figures of a reconstruction as plain JSON."""
    return {
        "mse": record.mse,
        "mse_of_visible_mean": record.baseline,
        "accuracy": record.accuracy,
        "chance": record.chance,
        "info_nce": record.nce,
        "info_nce_of_guessing": math.log(record.hidden),
        "hidden": record.hidden,
        "patches": record.grid.count,
        "kind": kind,
        "seconds": [record.start, record.start + record.grid.frames * record.grid.hop],
    }


def figures_html(values: dict[str, Any]) -> str:
    """The four figures, each beside what it has to be compared with."""
    hidden = values["hidden"]
    right = round(values["accuracy"] * hidden)
    cards = (
        ("mse", "Reconstruction MSE", f"{values['mse']:.3f}", f"{values['mse_of_visible_mean']:.3f} for filling in "
         "the visible mean of each mel bin"),
        ("accuracy", "InfoNCE accuracy", f"{values['accuracy']:.1%}", f"{right} of {hidden} recognised; guessing: "
         f"{values['chance']:.2%}"),
        ("nce", "InfoNCE loss", f"{values['info_nce']:.2f} nats", f"guessing: {values['info_nce_of_guessing']:.2f}"),
        ("hidden", f"Hidden {PLURAL[values['kind']]}", f"{hidden}",
         f"of {values['patches']} ({hidden / values['patches']:.0%})"),
    )  # fmt: skip
    return '<dl class="figures">' + "".join(
        f'<div id="{key}"><dt>{title}</dt><dd>{value}</dd><dd class="beside">{beside}</dd></div>'
        for key, title, value, beside in cards
    ) + "</dl>"  # fmt: skip


def sound_line(sound: Sound) -> str:
    return (
        f'<p class="sound"><b>{html.escape(sound.title)}</b> <span>{sound.seconds:.1f} s, '
        f"{f'{sound.found / 1000:g} kHz, ' if sound.found else ''}{html.escape(sound.about)}</span></p>"
    ) + "".join(f'<p class="notice" role="status">{html.escape(notice)}</p>' for notice in sound.notices)


def status_line(message: str = "", kept: bool = False) -> str:
    rest = " The earlier sound is still shown." if message and kept else ""
    return f'<p class="trouble" role="alert">{html.escape(message + rest)}</p>' if message else ""
