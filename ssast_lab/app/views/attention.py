"""Attention: who attends to whom, in every layer and head."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ssast_lab import analysis
from ssast_lab.analysis import Attention
from ssast_lab.app.state import Seen
from ssast_lab.app.views.view import Answer, Asked, View
from ssast_lab.model import SPECIAL
from ssast_lab.stage import text

ROLLOUT = "rollout"


@lru_cache(maxsize=2)  # 152 MB each of a base model
def attention(seen: Seen, hidden: bool) -> Attention:
    """Of all layers, with the mask or without."""
    return analysis.attend(seen.network, seen.excerpt.fbank, seen.mask if hidden else None, seen.record.start)


@lru_cache(maxsize=4)
def distances(seen: Seen, hidden: bool) -> dict[str, list]:
    """(L, H) seconds and mel bins, and what they would be if all attended to all alike."""
    record = attention(seen, hidden)
    even = replace(record, weights=np.ones_like(record.weights[:1, :1]))
    seconds, bins = record.distances()
    return {
        "seconds": seconds.tolist(),
        "bins": bins.tolist(),
        "even": [float(value) for value in np.ravel(even.distances())],
    }


def look(seen: Seen, asked: Asked) -> Answer:
    """All heads of a layer, or the rollout."""
    hidden = asked.get("hidden") is not False
    record = attention(seen, hidden)
    depth, heads = record.weights.shape[:2]
    layer: Any = asked.get("layer")
    if layer == ROLLOUT:
        weights = record.rollout()[None]
    else:
        layer = layer if type(layer) is int and 0 <= layer < depth else depth - 1
        weights = record.weights[layer]
    return packed(weights) | distances(seen, hidden) | {
        "layer": layer, "layers": depth, "heads": heads, "special": SPECIAL, "hidden": hidden,
    }  # fmt: skip


def packed(weights: np.ndarray) -> Answer:
    """(H, K, K) -> bytes for the browser: the square root of each weight's share of the largest of its row, in 255 steps, by
    which small weights keep their digits; and the largest, (H, K)."""
    most = weights.max(-1)
    steps = np.rint(255 * np.sqrt(weights / most[..., None])).astype(np.uint8)
    return {"weights": text(steps), "most": text(most.astype("<f4"))}


CODE = """
attention = ssast_lab.attend(model, excerpt.fbank, mask, excerpt.start)
seconds, mel_bins = attention.distances()  # (L, H) each
print("Mean distance of each layer's attention:", [f"{mean:.2f} s" for mean in seconds.mean(1)])
figure = figures.attention(attention, patch=int(mask.nonzero()[0]), layer=-1)  # what the first hidden patch looks at
"""

VIEW = View(
    name="attention",
    title="Attention",
    hint="What does a patch look at? Point at one of the stage: bright is where its attention goes; a click holds it.",
    look=look,
    code=CODE,
)
