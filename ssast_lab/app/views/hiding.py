"""How much can be hidden: what the model makes of the sound as more and more of it is hidden."""

import zlib
from typing import Any

import torch

from ssast_lab import analysis, checkpoint
from ssast_lab.analysis import Hiding
from ssast_lab.app.reconstruction import CLUSTERS, PAPER, draw
from ssast_lab.app.state import Seen
from ssast_lab.app.views.versus import QUESTIONS, predicted
from ssast_lab.app.views.view import Answer, Asked, View
from ssast_lab.stage import text

SEEDS = (3, 5, 10)


def look(seen: Seen, asked: Asked, cluster: str) -> Answer:
    """The numbers of patches to hide; and of the one that is asked for, what the model makes of it under several masks."""
    grid, kind = seen.record.grid, cluster if cluster in CLUSTERS else PAPER
    counts = analysis.hiding_counts(grid.count)
    seeds = asked.get("seeds") if asked.get("seeds") in SEEDS else SEEDS[1]
    assert isinstance(seeds, int)
    answer: Answer = {
        "of": [zlib.crc32(str(seen.model.path).encode()), kind, grid.count, seeds],
        "counts": counts, "seeds": seeds, "kind": kind if grid.rows > 1 else "random", "choices": SEEDS, "classes": first(seen),
    }  # fmt: skip
    count = asked.get("count")
    if type(count) is int and count in counts:
        masks = torch.stack([draw(grid, kind, count, seed) for seed in range(seeds)])
        answer["point"] = packed(analysis.hiding(seen.network, seen.excerpt.fbank, masks)) | {"held": held(seen, masks)}
    return answer


def first(seen: Seen) -> dict[str, Any]:
    """What each linear head of the model says while nothing is hidden."""
    heads, whole = checkpoint.heads(seen.model.path), predicted(seen, None)
    return {
        name: {"question": question, "label": heads[name].labels[whole[name].argmax()], "probability": float(whole[name].max())}
        for name, question in QUESTIONS.items()
        if name in whole
    }  # fmt: skip


def held(seen: Seen, masks: torch.Tensor) -> dict[str, list[float]]:
    """The probability of that first answer under each mask: of what is told from the visible patches alone."""
    whole = {name: probabilities.argmax() for name, probabilities in predicted(seen, None).items() if name in QUESTIONS}
    if not whole or masks.all():
        return {}
    heads = [head for name, head in checkpoint.heads(seen.model.path).items() if name in whole]
    told = [analysis.predict(seen.network, heads, seen.excerpt.fbank, mask) for mask in masks]
    return {name: [float(each[name][label]) for each in told] for name, label in whole.items()}


def packed(record: Hiding) -> Answer:
    return {
        "count": record.count, "mse": record.mse.tolist(), "baseline": record.baseline.tolist(),
        "accuracy": record.accuracy.tolist(), "nce": record.nce.tolist(), "masks": text(record.masks.astype("u1")),
    }  # fmt: skip


CODE = """
counts = [1, excerpt.grid.count // 2, excerpt.grid.count - 2]
for point in analysis.hiding_curve(model, excerpt, counts, masking.usual_cluster(excerpt.grid), seeds=3):
    print(f"{point.count} hidden: MSE {point.mse.mean():.3f}, {point.accuracy.mean():.1%} recognised")
"""

VIEW = View(
    name="hiding",
    title="Hiding curve",
    hint="Where does it fail? Click a point of a curve to have that much hidden on the stage; the bands are the spread over the masks.",
    look=look,
    inputs=("blocks",),
    code=CODE,
)
