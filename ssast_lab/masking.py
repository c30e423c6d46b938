"""Masks as data: which patches of a spectrogram are hidden from the model.

Axes: B clips, N patches. A mask is bool and True means hidden. Every mask comes from an explicit ``torch.Generator``
and lies on that generator's device, so the same seed gives the same masks whatever else happens in the process.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssast_lab.config import MaskConfig
from ssast_lab.patches import PatchGrid

CLUSTER = (3, 5)  # the range of C in the paper (section 2.2)


def usual_cluster(grid: PatchGrid) -> tuple[int, int] | None:
    """How the paper hides patches of this grid: in clusters, or frames one by one (None)."""
    return CLUSTER if grid.rows > 1 else None


def draw_mask(grid: PatchGrid, mask: MaskConfig, *, generator: torch.Generator, batch: int | None = None) -> Tensor:
    """Hides as many patches as ``mask`` says, in clusters or one by one: (N,) bool, or (B, N) for a ``batch`` of B."""
    count = mask.hidden(grid.count)
    if mask.cluster is None:
        return random_mask(grid, count, generator=generator, batch=batch)
    return cluster_mask(grid, count, generator=generator, batch=batch, cluster=mask.cluster)


def of_shorter(count: int, patches: int, window: int) -> int:
    """How many of the ``patches`` of a sound are hidden where ``count`` of a whole ``window`` are: the same share, at least one and
    not all."""
    return min(max(round(count * patches / window), 1), patches - 1)


def cluster_mask(
    grid: PatchGrid,
    count: int = 400,
    *,
    generator: torch.Generator,
    batch: int | None = None,
    cluster: int | tuple[int, int] = (3, 5),
    overhang: bool = True,
) -> Tensor:
    """Hides exactly ``count`` patches in C x C blocks around random centres: (N,) bool, or (B, N) for a ``batch`` of B.

    ``cluster`` is the factor C of the paper (section 2.2), or the range (least, most) from which each clip draws its own.
    ``overhang`` lets blocks hang over the edges of the grid, so that every patch is hidden equally often; without it,
    centres lie inside the grid only and its edges are hidden less often (for study).

    How: every possible block has a random rank, and a patch is reached by the first block, in the order of the ranks,
    that covers it. That is a C x C min-pool over the ranks; the ``count`` patches reached first are the mask.
    """
    least, most = (cluster, cluster) if isinstance(cluster, int) else cluster
    if not 1 <= least <= most:
        raise ValueError(f"The cluster factor must run from at least 1 upwards, not from {least} to {most}.")
    clips, device = _clips(batch), generator.device
    factors = torch.randint(least, most + 1, (clips, 1, 1), generator=generator, device=device)
    ranks = torch.rand(clips, grid.rows + most - 1, grid.columns + most - 1, generator=generator, device=device)
    reached = torch.empty(clips, grid.rows, grid.columns, device=device)
    for size in range(least, most + 1):
        if overhang:
            blocks = ranks[:, : grid.rows + size - 1, : grid.columns + size - 1]
        else:  # a block that starts at row 1 - C .. -C // 2 has its centre above the grid: it never comes
            before, after = (size - 1) // 2, size // 2
            inside = ranks[:, : grid.rows, : grid.columns]
            blocks = torch.nn.functional.pad(inside, (after, before, after, before), value=2.0)
        reached = torch.where(factors == size, _min_pool(blocks, size), reached)
    # float32 ranks are multiples of 2^-24: half of that decides at random among the patches of the last block
    order = reached.flatten(1).double()
    order = order + torch.rand(order.shape, generator=generator, device=device, dtype=torch.float64) * 2.0**-25
    return _smallest(order, grid, count, batch)


def _min_pool(ranks: Tensor, size: int) -> Tensor:
    """(B, rows + C - 1, columns + C - 1) -> (B, rows, columns): along one axis and then the other, which is quicker."""
    rows, columns = ranks.shape[1] - size + 1, ranks.shape[2] - size + 1
    down = ranks[:, :rows]
    for shift in range(1, size):
        down = torch.minimum(down, ranks[:, shift : shift + rows])
    right = down[..., :columns]
    for shift in range(1, size):
        right = torch.minimum(right, down[..., shift : shift + columns])
    return right


def random_mask(
    grid: PatchGrid,
    count: int = 400,
    *,
    generator: torch.Generator,
    batch: int | None = None,
) -> Tensor:
    """Hides exactly ``count`` patches, each one independently of its neighbours: (N,) bool, or (B, N) for a ``batch``.

    This is how the paper masks frames.
    """
    order = torch.rand(_clips(batch), grid.count, generator=generator, device=generator.device, dtype=torch.float64)
    return _smallest(order, grid, count, batch)


def official_mask(grid: PatchGrid, count: int = 400, *, generator: torch.Generator, batch: int | None = None) -> Tensor:
    """The published code's cluster masks with all their biases: for study only, never for training.

    Blocks extend right and down from a random patch and wrap past the right edge into the next row; patch 0 is never
    hidden; one patch too many is collected and then the largest numbers are dropped, so the last patch never is either, for
    the paper's 100, 250 and 400 (``gen_maskid_patch`` in the official ``src/models/ast_models.py``, which loops forever for counts that this refuses).
    """
    if not 1 <= count <= grid.count - 2:
        raise ValueError(f"The official algorithm can hide 1 to {grid.count - 2} of {grid.count} patches, not {count}.")
    clips, device = _clips(batch), generator.device
    factors = torch.randint(3, 6, (clips, 1), generator=generator, device=device)
    ranks = torch.rand(clips, grid.count, generator=generator, device=device, dtype=torch.float64)
    reached = torch.full_like(ranks, 2.0)
    for size in range(3, 6):
        first = torch.full_like(ranks, 2.0)
        for down in range(size):
            for right in range(size):
                shift = down * grid.columns + right
                if shift < grid.count:
                    first[:, shift:] = torch.minimum(first[:, shift:], ranks[:, : grid.count - shift])
        reached = torch.where(factors == size, first, reached)
    reached[:, 0] = 2.0
    last = reached.kthvalue(count + 1, dim=1, keepdim=True).values  # it stops with the block that brings too many
    hidden = reached <= last
    hidden &= hidden.cumsum(1) <= count  # and then drops the largest numbers
    return hidden if batch else hidden[0]


def _clips(batch: int | None) -> int:
    if batch is not None and batch < 1:
        raise ValueError(f"A batch has at least one mask, not {batch}.")
    return batch or 1


def _smallest(order: Tensor, grid: PatchGrid, count: int, batch: int | None) -> Tensor:
    if not 1 <= count <= grid.count:
        raise ValueError(f"Between 1 and {grid.count} patches can be hidden here, not {count}.")
    few_visible = 2 * count > grid.count  # the smaller set is quicker to find
    chosen = order.topk(grid.count - count if few_visible else count, dim=1, largest=few_visible).indices
    hidden = torch.full_like(order, few_visible, dtype=torch.bool).scatter_(1, chosen, not few_visible)
    return hidden if batch else hidden[0]


@dataclass(frozen=True)
class Coverage:
    """How often patches are hidden over many masks, and how large the hidden clusters are."""

    masks: int
    rate: np.ndarray  # (rows, columns) share of the masks that hide this patch
    per_row: np.ndarray  # (rows,) from the lowest mel band
    per_column: np.ndarray  # (columns,)
    cluster_sizes: np.ndarray  # (clusters,) patches in each connected hidden region, over all masks


def coverage(masks: Tensor, grid: PatchGrid) -> Coverage:
    """Statistics over (B, N) masks; regions are connected through the four sides of a patch."""
    from scipy import ndimage

    hidden = masks.reshape(-1, grid.rows, grid.columns).cpu().numpy()
    sides = np.zeros((3, 3, 3), dtype=int)  # neighbours within one mask only, never from mask to mask
    sides[1] = ndimage.generate_binary_structure(2, 1)
    regions, _ = ndimage.label(hidden, structure=sides)
    rate = hidden.mean(axis=0)
    return Coverage(len(hidden), rate, rate.mean(axis=1), rate.mean(axis=0), np.bincount(regions.ravel())[1:])
