"""Patch against frame: a model of each kind on the same sound, with the same share hidden."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.app.reconstruction import SEEDS, analyse
from ssast_lab.app.sources import find_models, load_model
from ssast_lab.app.state import Common, Seen
from ssast_lab.app.views.reconstruction import baselines, sixteen_bits
from ssast_lab.app.views.view import Answer, Asked, Refusal, View
from ssast_lab.checkpoint import CheckpointError
from ssast_lab.config import AudioConfig
from ssast_lab.model import Classifier
from ssast_lab.stage import PLURAL, levels, text

QUESTIONS = {
    "kind": "Speech, music or effect?", "effects": "Which effect?", "instruments": "Which instrument?",
    "drums": "Which drum?", "phones": "Which phone?", "letters": "Which letter?", "tones": "Which tone of Mandarin?",
}  # fmt: skip
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)  # hidden, at which the predictions are made again
DRAWS = 3  # masks at each of them
LABELS = 6  # of a classifier, the most probable ones


def renormalised(fbank: np.ndarray, old: AudioConfig, new: AudioConfig) -> np.ndarray:
    return (fbank * (2 * old.std) + (old.mean - new.mean)) / (2 * new.std)


@lru_cache(maxsize=8)
def rival(seen: Seen, seed: int) -> Seen:
    """What the built-in model of the other kind makes of the same stretch of sound."""
    model = next((model for model in find_models().values() if model.kind != seen.model.kind), None)
    if model is None:
        raise Refusal("There is no model of the other kind here.")
    config = load_model(model.path).config
    if not config.audio.alike(seen.config):
        raise Refusal(
            "The built-in {} model to compare with hears other frequencies than this one, {:g} to {:g} Hz, so that the two do not see the "
            "same picture.".format(model.kind, *config.audio.band)
        )
    (_, shape), (_, stride) = config.patch, config.stride
    columns = (min(len(seen.record.original), config.frames) - shape) // stride + 1
    if columns < 1:
        raise Refusal(f"The {model.kind} model needs {shape} frames: this sound is too short for it.")
    frames = (columns - 1) * stride + shape
    fbank = renormalised(seen.record.original[:frames], seen.config, config.audio)
    sound = torch.from_numpy(fbank.astype(np.float32))
    excerpt = analysis.Excerpt(seen.record.start, sound, load_model(model.path).encoder.grid_of(sound))
    mask = analysis.draw_mask(excerpt, float(seen.mask.float().mean()), seed)
    return Seen(f"{seen.key} beside", model, analyse(excerpt, model, mask))


def both(seen: Seen, seed: float | None) -> dict[str, Seen]:
    """By kind, the patch model first."""
    if not seen.record.hidden:
        raise Refusal("Nothing is hidden, so there is nothing to compare: hide some patches.")
    other = rival(seen, int(seed or 0) % SEEDS)
    return dict(sorted({seen.model.kind: seen, other.model.kind: other}.items(), reverse=True))


def look(seen: Seen, asked: Asked, common: Common, seed: float | None) -> Answer:
    """Figures, pictures, reach of the attention and predictions of both, and of a classifier that is asked for by its name."""
    models = both(seen, seed)
    drawn = drawn_alike(seen, models)
    return {
        "own": seen.model.kind,
        "models": {kind: side(one) | {"levels": levels(seen.record, drawn[kind], seen.config)} for kind, one in models.items()},
        "questions": questions(models),
        "classifiers": others(common), "classifier": classified(seen, common, asked.get("classifier")),
    }  # fmt: skip


def others(common: Common) -> list[str]:
    """What stands on the shelf beside the pretraining models: classifiers, as far as it is known before they are opened."""
    offered = {model.path for model in common.models.values()}
    return [name for name, path in common.shelf.entries().items() if path not in offered]


def classified(seen: Seen, common: Common, name: Any) -> Answer | None:
    """The most probable labels of a classifier, from the whole stretch of sound and from what is not hidden."""
    if name not in others(common):
        return None
    try:
        model = common.shelf.open(name).model
    except CheckpointError as error:
        return {"name": name, "trouble": str(error)}
    if not isinstance(model, Classifier):
        return {"name": name, "trouble": "It has no labels: it was not fine-tuned to name sounds."}
    config, grid = model.config, seen.record.grid
    fbank = renormalised(seen.record.original, seen.config, config.audio)[: config.frames].astype(np.float32)
    if not config.audio.alike(seen.config) or len(fbank) < config.patch[1]:
        return {"name": name, "trouble": "Its features are of another kind, or the sound is too short for it."}
    sound = torch.from_numpy(fbank)
    whole, left = analysis.classify(model, sound), None
    if model.encoder.grid_of(sound) == grid and not seen.mask.all():
        left = analysis.classify(model, sound, seen.mask)
    best = np.argsort(-whole)[:LABELS]
    return {
        "name": name, "labels": [config.labels[label] for label in best], "of": len(config.labels),
        "whole": whole[best].tolist(), "masked": None if left is None else left[best].tolist(),
    }  # fmt: skip


def drawn_alike(seen: Seen, models: dict[str, Seen]) -> dict[str, np.ndarray]:
    """What each has drawn, in the features of the one that the stage shows, (T, F); what the other does not reach is as it was."""
    drawn = {}
    for kind, one in models.items():
        drawn[kind] = seen.record.original.copy()
        drawn[kind][: len(one.record.original)] = renormalised(one.record.reconstruction, one.config, seen.config)
    return drawn


def side(seen: Seen) -> Answer:
    record, best = seen.record, min(baselines(seen), key=lambda baseline: baseline.mse)
    seconds, _ = reach(seen)
    return {
        "label": seen.model.label, "plural": PLURAL[seen.model.kind], "hidden": record.hidden, "patches": record.grid.count,
        "accuracy": record.accuracy, "chance": record.chance, "nce": record.nce, "mse": record.mse,
        "baseline": best.name, "baseline_mse": best.mse, "mask": text(record.mask.astype(np.uint8)),
        "rows": record.grid.rows, "columns": record.grid.columns, "seconds": seconds.mean(1).tolist(),
    }  # fmt: skip


@lru_cache(maxsize=8)
def reach(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    return analysis.attend(seen.network, seen.excerpt.fbank, seen.mask, seen.record.start).distances()


def questions(models: dict[str, Seen]) -> list[Answer]:
    """What linear heads say, for each question that both models have a head for."""
    heads = {kind: checkpoint.heads(one.model.path) for kind, one in models.items()}
    told = {kind: predicted(one, None) for kind, one in models.items()}
    less = {kind: predicted(one, one.key) for kind, one in models.items()}
    shared = [name for name in QUESTIONS if all(name in found for found in heads.values())]
    return [
        {
            "name": name, "question": QUESTIONS[name], "labels": next(iter(heads.values()))[name].labels,
            "models": {
                kind: {
                    "whole": told[kind][name].tolist(), "masked": less[kind][name].tolist(), "labels": heads[kind][name].labels,
                    "accuracy": heads[kind][name].about.get("accuracy"), "clips": heads[kind][name].about.get("test_clips"),
                    "most_frequent": heads[kind][name].about.get("most_frequent"), "layer": heads[kind][name].layer,
                }
                for kind in models
            },
        }
        for name in shared
    ]  # fmt: skip


@lru_cache(maxsize=64)
def predicted(seen: Seen, mask: str | None, share: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Name of the head -> (L,) probabilities: of all patches, of the visible ones (``mask`` is the picture's key), or of those
    that another mask leaves."""
    heads = checkpoint.heads(seen.model.path).values()
    hidden = seen.mask if mask else analysis.draw_mask(seen.excerpt, share, seed) if share else None
    if hidden is not None and bool(hidden.all()):
        return {head.name: np.full(len(head.labels), np.nan) for head in heads}
    return analysis.predict(seen.network, heads, seen.excerpt.fbank, hidden)


def later(seen: Seen, asked: Asked, seed: float | None = None) -> Answer:
    """The sound of what the other has drawn, and how surely each holds to its first answer as more is hidden."""
    if not seen.record.hidden:
        return {}
    models = both(seen, seed)
    other = next(kind for kind in models if kind != seen.model.kind)
    wave = audio.invert(torch.from_numpy(drawn_alike(seen, models)[other])[None], seen.config)[0]
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for kind, one in models.items():
        whole = predicted(one, None)
        for name, first in whole.items():
            held = [
                [float(predicted(one, None, share, draw)[name][first.argmax()]) for draw in range(DRAWS)]
                for share in SHARES
            ]
            curves.setdefault(name, {})[kind] = held
    return {"sound": sixteen_bits(wave.numpy()), "shares": SHARES, "curves": curves}


CODE = """
other = ssast_lab.load("tiny-frame" if excerpt.grid.rows > 1 else "tiny-patch")
heard = model.config.audio
until = round(excerpt.start * heard.sample_rate) + heard.samples_of(excerpt.grid.frames)
beside = ssast_lab.excerpt(wave[:until], other.config, excerpt.start)
hidden = ssast_lab.draw_mask(beside, float(mask.float().mean()), seed=SEED)
theirs = ssast_lab.reconstruct(other, beside.fbank, hidden, beside.start)
print(f"The other model: MSE {theirs.mse:.3f}, accuracy {theirs.accuracy:.1%} of {theirs.hidden}")
"""

VIEW = View(
    name="versus",
    title="Patch or frame",
    hint="The same sound and the same share hidden, for both kinds of model: see which draws it better, recognises more and looks further, and what can be told from what is left.",
    look=look,
    later=later,
    inputs=("seed",),
    shared=True,
    code=CODE,
)
