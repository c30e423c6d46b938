"""Patches and masks: how often each patch is hidden over many masks, here and by the published algorithm."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from ssast_lab import masking
from ssast_lab.app.reconstruction import CLUSTERS, OFFICIAL, PAPER, RANDOM, SEEDS, draw
from ssast_lab.app.state import Seen
from ssast_lab.app.views.view import Answer, Asked, View
from ssast_lab.masking import Coverage
from ssast_lab.patches import PatchGrid
from ssast_lab.stage import text

DRAWS = 1000
EXAMPLES = 4


@lru_cache(maxsize=64)
def coverage(grid: PatchGrid, cluster: str, count: int) -> Coverage:
    return masking.coverage(draw(grid, cluster, count, 0, DRAWS), grid)


def look(seen: Seen, asked: Asked, cluster: str, seed: float | None) -> Answer:
    """The masks that the controls ask for, beside random ones and those of the published code: on the model's grid, or on the
    other that is asked for, with the same share hidden."""
    own = seen.record.grid
    shapes = {"patch": (16, 16), "frame": (own.mel_bins, 2)}  # mel bins x frames, the paper's two
    shape = shapes.get(str(asked.get("grid")))
    grid = own if shape in (None, own.shape) else replace(own, shape=shape, stride=shape)
    count = min(max(round(seen.record.hidden / own.count * grid.count), 1), grid.count)
    cluster = cluster if cluster in CLUSTERS else PAPER
    first = int(seed or 0) % SEEDS
    chosen = PAPER if cluster in (RANDOM, OFFICIAL) else cluster
    names = [chosen, RANDOM, OFFICIAL] if grid.rows > 1 else [RANDOM]
    return {
        "grid": {"rows": grid.rows, "columns": grid.columns, "shape": grid.shape}, "own": grid == own,
        "draws": DRAWS, "count": count, "kinds": [kind(grid, name, count, first) | {"chosen": name == cluster} for name in names],
        "now": masking.coverage(seen.mask[None], own).cluster_sizes.tolist(),
    }  # fmt: skip


def kind(grid: PatchGrid, cluster: str, count: int, seed: int) -> Answer:
    """How masks of one kind cover the grid, and the first of them."""
    record = coverage(grid, cluster, count)
    examples = [draw(grid, cluster, count, (seed + more) % SEEDS).numpy() for more in range(EXAMPLES)]
    return {
        "cluster": cluster, "rate": text(record.rate.astype("<f4")), "rows": record.per_row.tolist(),
        "columns": record.per_column.tolist(), "region": float(record.cluster_sizes.mean()),
        "examples": text(np.stack(examples).astype(np.uint8)),
    }  # fmt: skip


CODE = """
kind = MaskConfig(int(mask.sum()), masking.usual_cluster(excerpt.grid))
masks = masking.draw_mask(excerpt.grid, kind, generator=torch.Generator(), batch=1000)  # (1000, N)
coverage = masking.coverage(masks, excerpt.grid)
print(f"Hidden from {coverage.rate.min():.1%} of the time to {coverage.rate.max():.1%}, patch by patch")
figure = figures.coverage(coverage, excerpt.grid)
"""

VIEW = View(
    name="masks",
    title="Patches and masks",
    hint="How often is each patch hidden over 1,000 masks? Blue is too seldom and red too often; dark is as it should be.",
    look=look,
    inputs=("blocks", "seed"),
    code=CODE,
)
