"""The endpoints for programs, under stable names: what the core finds in a sound, as plain JSON.

    from gradio_client import Client, handle_file
    client = Client("http://127.0.0.1:7860")
    client.predict(file=handle_file("bird.flac"), hidden=300, api_name="/reconstruct")

All of them take the same sound, model and mask. Whatever cannot be answered gets a sentence.
"""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ssast_lab import analysis, audio
from ssast_lab.analysis import Excerpt
from ssast_lab.app.handlers import Models, loaded, refusal
from ssast_lab.app.reconstruction import CLUSTERS, PAPER, SEEDS, SHARE, analyse, drawn_mask, hidden_count, numbers
from ssast_lab.app.sources import Model, builtin_sound, own_sound
from ssast_lab.model import SSAST

MOST_DRAWS = 1000
ASKED = """file: a sound file; without one, the built-in sound is taken.
builtin: the name of a built-in sound.
model: the name of a model.
start: seconds into the sound from which on the model sees it.
hidden: how many patches are hidden (frames, for a frame model); without it, 400 of 512.
cluster: the size of the blocks in which patches are hidden.
seed: of the mask, from 0 to 2147483647."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A sound, a model and a mask."""

    chosen: Model
    model: SSAST
    excerpt: Excerpt
    hidden: int
    cluster: str
    seed: int

    def mask(self, further: int = 0) -> Tensor:
        """(N,) bool: the mask of the seed, or of one that is ``further``."""
        return drawn_mask(self.excerpt, self.chosen, self.hidden, self.cluster, self.seed + further)


def reconstruct(asked: Asked) -> dict[str, Any]:
    """Hides patches of a sound and lets the model draw and recognise them. Returns the errors and accuracies, each beside that
    of guessing."""
    return numbers(analyse(asked.excerpt, asked.chosen, asked.mask()), asked.chosen.kind)


def masks(asked: Asked, draws: int = 1) -> dict[str, Any]:
    """Draws masks for a sound. Returns the numbers of the hidden patches of each, and how often each patch was hidden; patches are
    numbered row by row from the lowest mel band, time fastest.

    draws: how many, from 1 to 1000; each has the seed after that of the one before."""
    drawn = [asked.mask(further) for further in range(number("draws", draws, 1, MOST_DRAWS))]
    often = np.mean([mask.numpy() for mask in drawn], axis=0)
    return grid_of(asked) | {"masks": [mask.nonzero()[:, 0].tolist() for mask in drawn], "often": rounded(often)}


def attention(
    asked: Asked, layer: int = 0, head: int | None = None, patch: int = 0, masked: bool = False
) -> dict[str, Any]:
    """What a patch of a sound attends to. Returns the weights from that patch to each and from each to that patch, those of the
    rollout through all layers, and how far each layer's heads look in the mean.

    layer: from 0.
    head: from 0; without it, the mean of all.
    patch: its number, row by row from the lowest mel band, time fastest.
    masked: whether patches are hidden."""
    record = analysis.attend(asked.model, asked.excerpt.fbank, asked.mask() if masked else None, asked.excerpt.start)
    layers, heads, tokens, _ = record.weights.shape
    number("layer", layer, 0, layers - 1)
    if head is not None:
        number("head", head, 0, heads - 1)
    place = number("patch", patch, 0, asked.excerpt.grid.count - 1)
    weights, special = record.among_patches(layer, head), tokens - asked.excerpt.grid.count
    seconds, bins = record.distances()
    return grid_of(asked) | {
        "layers": layers, "heads": heads,
        "looks_at": rounded(weights[place]), "is_looked_at_by": rounded(weights[:, place]),
        "rollout": rounded(record.rollout()[special + place, special:]),
        "seconds_away": rounded(seconds), "bins_away": rounded(bins),
    }  # fmt: skip


def recognition(asked: Asked, scores: bool = False) -> dict[str, Any]:
    """Lets the model tell the hidden patches of a sound apart. Returns for each its rank (0 is recognised), by the paper's softmax
    and by the official code's, and the five patches that it was taken for, best first.

    scores: whether the dot products of every prediction (row) with every true patch (column) are returned as well."""
    record = analysis.match(asked.model, asked.excerpt.fbank, asked.mask())
    found = {
        "patches": record.patches.tolist(), "rank": record.rank.tolist(),
        "rank_among_predictions": record.rank_among_predictions.tolist(), "taken_for": record.taken_for.tolist(),
        "accuracy": float((record.rank == 0).mean()), "chance": 1 / len(record.patches),
    }  # fmt: skip
    return grid_of(asked) | found | ({"scores": rounded(record.scores)} if scores else {})


def offer(models: Models) -> None:
    """Puts the endpoints on a page that is being built."""
    import gradio as gr

    for answer in (reconstruct, masks, attention, recognition):
        gr.api(endpoint(answer, models), api_name=answer.__name__, concurrency_id="model", concurrency_limit=1)


def endpoint(answer: Callable[..., dict[str, Any]], models: Models) -> Callable[..., dict[str, Any]]:
    """A function of plain values from one of :class:`Asked`, with hints and a docstring for all of them."""
    import gradio as gr

    sounds, clusters = tuple(audio.builtin_sounds()), tuple(CLUSTERS)
    sound_model_mask: dict[str, tuple[Any, Any]] = {
        "file": (gr.FileData | None, None), "builtin": (Literal[sounds], sounds[0]), "model": (Literal[tuple(models)], next(iter(models))),
        "start": (float, 0.0), "hidden": (int | None, None), "cluster": (Literal[clusters], PAPER), "seed": (int, 0),
    }  # fmt: skip
    _, *own = inspect.signature(answer).parameters.values()
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    common = [
        inspect.Parameter(name, kind, default=value, annotation=hint)
        for name, (hint, value) in sound_model_mask.items()
    ]

    def answered(*values: Any) -> dict[str, Any]:
        return answer(what_is_asked(models, *values[: len(common)]), *values[len(common) :])

    answered.__signature__ = inspect.Signature([*common, *own], return_annotation=dict[str, Any])  # type: ignore[attr-defined]
    answered.__annotations__ = {each.name: each.annotation for each in [*common, *own]} | {"return": dict[str, Any]}
    first, _, rest = inspect.cleandoc(answer.__doc__ or "").partition("\n\n")
    answered.__doc__ = "\n".join([first, "", ASKED, *([rest] if rest else [])])
    answered.__name__ = answer.__name__
    return answered


def what_is_asked(
    models: Models, file: Any, builtin: Any, model: Any, start: Any, hidden: Any, cluster: Any, seed: Any
) -> Asked:
    """The values of a request, each of which may be anything that JSON can say."""
    chosen = models[one_of("model", model, models)]
    one_of("cluster", cluster, CLUSTERS)
    try:
        sound = (
            builtin_sound(one_of("builtin", builtin, audio.builtin_sounds()))
            if file is None
            else own_sound(sent(file), rate=chosen.rate)
        )
        start = number("start", start, 0, sound.seconds, whole=False)
        ssast = loaded(models, model)
        excerpt = analysis.excerpt(sound.at(chosen.rate), ssast.config, start)
    except audio.AudioError as error:
        raise refusal(str(error)) from None
    many = excerpt.grid.count
    count = hidden_count(SHARE, excerpt) if hidden is None else number("hidden", hidden, 1, many)
    return Asked(chosen, ssast, excerpt, count, cluster, number("seed", seed, 0, SEEDS - 1))


def sent(file: Any) -> str:
    """The path of a file that was uploaded to this page, and of no other."""
    path = file.get("path") if isinstance(file, dict) else None
    folder = Path(os.environ.get("GRADIO_TEMP_DIR", os.devnull)).resolve()
    if isinstance(path, str) and "\0" not in path and Path(path).resolve().is_relative_to(folder):
        return path
    raise refusal("This is no file that was sent to this page.")


def number(name: str, value: Any, least: int, most: float, whole: bool = True) -> Any:
    """The value if it is such a number, or a sentence; NaN is neither less nor more than anything."""
    if type(value) in (int, float) and least <= value <= most and (not whole or value == int(value)):
        return int(value) if whole else float(value)
    raise refusal(f"{name} is a {'whole ' * whole}number from {least} to {most:g}, not {brief(value)}.")


def one_of(name: str, value: Any, choices: Any) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise refusal(f"{name} is one of {', '.join(choices)}, not {brief(value)}.")


def brief(value: Any) -> str:
    return "null" if value is None else repr(value)[:40]


def grid_of(asked: Asked) -> dict[str, Any]:
    grid = asked.excerpt.grid
    return {"kind": asked.chosen.kind, "patches": grid.count, "rows": grid.rows, "columns": grid.columns}


def rounded(values: np.ndarray) -> Any:
    """As lists, to seven decimals: float32 has no more of a weight."""
    return np.round(values.astype(float), 7).tolist()
