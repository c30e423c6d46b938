"""Records as a notebook shows them where no script runs: a picture, and players of their sounds."""

import base64
import html
import io
from functools import singledispatch
from typing import Any

import numpy as np
import soundfile
from torch import Tensor

from ssast_lab import audio, figures
from ssast_lab.analysis import Attention, Excerpt, Match, Reconstruction
from ssast_lab.stage.data import inverted

HEARD = {"given to the model": 0, "drawn by the model": 1, "the original, by the same way back to sound": 2}


def player(wave: Tensor | np.ndarray, title: str = "", rate: int = audio.SAMPLE_RATE) -> str:
    """(S,) -> HTML that plays it, with the sound in it; what is beyond full scale is turned down."""
    wave = np.asarray(wave, np.float32)
    file = io.BytesIO()
    soundfile.write(file, wave / max(float(np.abs(wave).max(initial=0)), 1.0), rate, format="FLAC", subtype="PCM_16")
    address = "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode()
    caption = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    return (
        f'<figure style="display: inline-block; margin: 4px 12px 4px 0; font-size: 12px">{caption}'
        f'<audio controls preload="metadata" src="{address}"></audio></figure>'
    )


def picture_of(record: Reconstruction) -> bytes:
    """The PNG that stands for a stage."""
    return figures.still(record)


def picture_html(png: bytes, words: str) -> str:
    address = "data:image/png;base64," + base64.b64encode(png).decode()
    return f'<img style="max-width: 100%; width: 900px" alt="{html.escape(words)}" src="{address}"/>'


@singledispatch
def bundle(record: Any) -> dict[str, Any]:
    """What a notebook displays of a record, by MIME type."""
    raise TypeError(f"No picture is known of a {type(record).__name__}.")


@bundle.register
def _(record: Reconstruction) -> dict[str, Any]:
    png, words = figures.still(record), summary(record)
    heard = inverted(record, record.audio).numpy()
    heard = heard / max(float(np.abs(heard).max()), 1.0)  # all at one gain, so that they compare
    players = "".join(player(heard[place], title, record.audio.sample_rate) for title, place in HEARD.items())
    return {
        "text/plain": words,
        "image/png": png,
        "text/html": f"<p>{html.escape(words)}</p>{picture_html(png, words)}<div>{players}</div>",
    }


def summary(record: Reconstruction) -> str:
    if not record.hidden:
        return f"Nothing of {record.grid.count} patches is hidden."
    return (
        f"{record.hidden} of {record.grid.count} patches hidden: MSE {record.mse:.3f} (each mel bin's visible mean: {record.baseline:.3f}), "
        f"{record.accuracy:.1%} recognised (guessing: {record.chance:.2%})"
    )


@bundle.register
def _(record: Excerpt) -> dict[str, Any]:
    png = figures.still(record)
    words = f"{record.grid.frames} frames of {record.grid.mel_bins} mel bins, {record.grid.count} patches"
    return {"text/plain": words, "image/png": png, "text/html": f"<p>{words}</p>{picture_html(png, words)}"}


@bundle.register
def _(record: Attention) -> dict[str, Any]:
    figure = figures.maps(figures.received(record), record.grid)
    figure.update_layout(
        title=dict(text="How much attention each patch receives in the mean, in percent", font=dict(size=13)),
        margin_t=60,
    )
    return drawn(record, figure)


@bundle.register
def _(record: Match) -> dict[str, Any]:
    return drawn(record, figures.maps(figures.places(record), record.grid))


def drawn(record: Any, figure: Any) -> dict[str, Any]:
    """A figure, and a picture of the record for where no script runs."""
    return (figure._repr_mimebundle_() or {"text/plain": "A figure"}) | {"image/png": figures.still(record)}
