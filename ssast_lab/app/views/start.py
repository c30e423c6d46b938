"""Start here: the pretext task in four steps, on the sound that is shown."""

import numpy as np

from ssast_lab.app.state import Seen
from ssast_lab.app.views.attention import attention
from ssast_lab.app.views.recognition import match
from ssast_lab.app.views.reconstruction import baselines
from ssast_lab.app.views.view import Answer, Asked, Refusal, View
from ssast_lab.stage import text

CANDIDATES = 5


def look(seen: Seen, asked: Asked) -> Answer:
    """One hidden patch to look at: what it attends to, and five patches of which one is it."""
    if seen.record.hidden < 2:
        raise Refusal("Too little is hidden for the task to be one: hide some patches, or ask for another mask.")
    patch, candidates = example(seen)
    depth = len(attention(seen, True).weights)
    among = attention(seen, True).among_patches(depth - 1)[patch]
    best = min(baselines(seen), key=lambda baseline: baseline.mse)
    return {
        "patch": patch, "attention": text((among / max(float(among.max()), 1e-9)).astype("<f4")),
        "candidates": candidates, "choice": int(match(seen).taken_for[list(match(seen).patches).index(patch)][0]),
        "hidden": seen.record.hidden, "patches": seen.record.grid.count, "accuracy": seen.record.accuracy,
        "chance": seen.record.chance, "mse": seen.record.mse, "baseline": best.name, "baseline_mse": best.mse,
    }  # fmt: skip


def example(seen: Seen) -> tuple[int, list[int]]:
    """A hidden patch in which something happens, a recognised one where there is one; and it among the hidden patches that it is
    most like to the model, in the order of their numbers, which tells nothing."""
    record, found = seen.record, match(seen)
    grid, spread = record.grid, np.zeros(record.grid.count)
    for patch in found.patches.tolist():
        low, high, first, end = grid.bounds(patch)
        spread[patch] = record.original[first:end, low:high].std()
    place = max(range(len(found.patches)), key=lambda at: (found.rank[at] == 0, spread[found.patches[at]]))
    patch = int(found.patches[place])
    others = [int(other) for other in found.taken_for[place] if other != patch]
    return patch, sorted([patch, *others[: CANDIDATES - 1]])


CODE = """
attention = ssast_lab.attend(model, excerpt.fbank, mask, excerpt.start)
patch = int(mask.nonzero()[0])  # a hidden one
looks_at = attention.among_patches(layer=-1)[patch]  # (N,): what it attends to, in the mean of the last layer's heads
match = ssast_lab.match(model, excerpt.fbank, mask)
print(f"Patch {patch} is taken for {match.taken_for[0]}, the likeliest first")
"""

VIEW = View(
    name="start",
    title="Start here",
    hint="What a masked spectrogram model is asked to do, in four steps on this sound.",
    look=look,
    code=CODE,
)
