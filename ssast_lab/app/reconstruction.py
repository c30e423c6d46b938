"""The view of a reconstruction: from an excerpt and a mask to the record, its figures and its pictures."""

import html
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ssast_lab import analysis, audio, masking
from ssast_lab.analysis import Excerpt, Reconstruction
from ssast_lab.config import MaskConfig, ModelConfig

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from gradio.components.plot import PlotData

from ssast_lab.app.sources import Model, Sound, load_model

PAPER = "3 to 5 (paper)"
PLURAL = {"patch": "patches", "frame": "frames"}
CLUSTERS = {PAPER: masking.CLUSTER} | {str(size): (size, size) for size in range(1, 9)}
SEEDS = 2**31
SHARE = 400 / 512  # of the patches are hidden at first, as in the paper


def hidden_count(portion: float, now: Excerpt) -> int:
    """How many patches make up a share of an excerpt's, and at least one."""
    return min(max(round(portion * now.grid.count), 1), now.grid.count)


def analyse(piece: Excerpt, model: Model, count: float | None, cluster: str, seed: float | None) -> Reconstruction:
    """Mask and model on an excerpt that is already there."""
    room = piece.grid.count
    blocks = None if model.kind == "frame" else CLUSTERS[cluster]
    mask = analysis.draw_mask(piece, MaskConfig(min(max(round(count or 1), 1), room), blocks), int(seed or 0) % SEEDS)
    return analysis.reconstruct(load_model(model.path), piece.fbank, mask, piece.start)


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
        "seconds": [record.start, record.start + record.grid.frames * audio.HOP / audio.SAMPLE_RATE],
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


def plot(figure: "go.Figure") -> "PlotData":
    """The figure with its tool bar; a double click shows the whole sound again."""
    from gradio.components.plot import PlotData
    from plotly.io.json import to_json_plotly

    tools = dict(displaylogo=False, doubleClick="reset", showTips=False)
    return PlotData(type="plotly", plot=to_json_plotly(figure.to_dict() | {"config": tools}))


def playable(sound: Sound, start: float, config: ModelConfig) -> tuple[int, np.ndarray]:
    """The excerpt as 16-bit samples for the player."""
    first = round(start * audio.SAMPLE_RATE)
    cut = sound.waveform[first : first + audio.samples_of(config.frames)]
    return audio.SAMPLE_RATE, (cut.clamp(-1, 1) * 32767).to(torch.int16).numpy()


def sound_line(sound: Sound) -> str:
    return (
        f'<p class="sound"><b>{html.escape(sound.title)}</b> <span>{sound.seconds:.1f} s, '
        f"{html.escape(sound.about)}</span></p>"
    )


def status_line(message: str = "", kept: bool = False) -> str:
    rest = " The earlier sound is still shown." if message and kept else ""
    return f'<p class="trouble" role="alert">{html.escape(message + rest)}</p>' if message else ""
