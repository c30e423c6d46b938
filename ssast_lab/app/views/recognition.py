"""Recognition: which of the hidden patches each prediction is taken for (InfoNCE)."""

from functools import lru_cache

from ssast_lab import analysis
from ssast_lab.analysis import Match
from ssast_lab.app.state import Seen
from ssast_lab.app.views.view import Answer, Asked, Refusal, View
from ssast_lab.stage import text


@lru_cache(maxsize=8)
def match(seen: Seen) -> Match:
    return analysis.match(seen.network, seen.excerpt.fbank, seen.mask)


def look(seen: Seen, asked: Asked) -> Answer:
    """The scores of all pairs, from which the browser makes both softmaxes, and the places of the true ones."""
    if not seen.record.hidden:
        raise Refusal("Nothing is hidden, so there is nothing to recognise: hide some patches.")
    record = match(seen)
    return {
        "patches": text(record.patches.astype("<i4")),
        "scores": text(record.scores.astype("<f4")),
        "rank": text(record.rank.astype("<i4")),
        "rank_among_predictions": text(record.rank_among_predictions.astype("<i4")),
    }


CODE = """
match = ssast_lab.match(model, excerpt.fbank, mask)
for patch, rank, taken_for in zip(match.patches[:10], match.rank, match.taken_for):
    print(f"Patch {patch}: {rank} others looked likelier; taken for {taken_for}")
figure = figures.match(match)
"""

VIEW = View(
    name="recognition",
    title="Recognition",
    hint="Which of all hidden patches is it? Bright is recognised, dark is far off; point at one to see what it is taken for.",
    look=look,
    code=CODE,
)
