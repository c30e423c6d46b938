"""Laws of the masks, against algorithms that are written out patch by patch."""

import random

import numpy as np
import pytest
import torch

from ssast_lab.masking import cluster_mask, coverage, official_mask, random_mask
from ssast_lab.patches import PatchGrid

PATCH, FRAME = PatchGrid(), PatchGrid(shape=(128, 2), stride=(128, 2))
SMALL = PatchGrid(mel_bins=128, frames=176)  # 8 x 11


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("grid", [PATCH, FRAME], ids=["patch", "frame"])
def test_exact_count_from_one_to_all(grid):
    generator = seeded()
    for count in range(1, grid.count + 1):
        for draw in (cluster_mask, random_mask):
            mask = draw(grid, count, generator=generator)
            assert mask.dtype == torch.bool
            assert mask.shape == (grid.count,)
            assert mask.sum() == count


@pytest.mark.parametrize("cluster", [1, 3, 5, (3, 5), (2, 4), 8, 20])
@pytest.mark.parametrize("overhang", [True, False])
def test_exact_count_for_any_cluster(cluster, overhang):
    for count in (1, 9, 50, SMALL.count):
        masks = cluster_mask(SMALL, count, generator=seeded(), batch=4, cluster=cluster, overhang=overhang)
        assert masks.sum(1).tolist() == [count] * 4


def test_every_patch_can_be_hidden():
    for grid in (PATCH, FRAME):
        assert cluster_mask(grid, 100, generator=seeded(), batch=400).any(0).all()
        assert random_mask(grid, 100, generator=seeded(), batch=400).any(0).all()


def test_overhanging_blocks_hide_all_patches_equally_often():
    many = coverage(cluster_mask(PATCH, 400, generator=seeded(), batch=8000, cluster=3), PATCH)
    assert many.rate.mean() == pytest.approx(400 / 512)
    assert many.rate.min() > 0.76  # 400 / 512 = 0.781, with a standard error of 0.005
    assert many.rate.max() < 0.81
    assert many.per_row == pytest.approx(np.full(8, 400 / 512), abs=0.012)


def test_without_overhang_the_edges_are_hidden_less_often():
    rows = coverage(cluster_mask(PATCH, 400, generator=seeded(), batch=2000, cluster=3, overhang=False), PATCH).per_row
    assert rows[[0, -1]] == pytest.approx([0.67, 0.67], abs=0.02)
    assert rows[2:-2] == pytest.approx([0.82] * 4, abs=0.02)


def test_the_blocks_have_the_size_that_was_asked_for():
    for size in (1, 2, 3, 4, 5):
        for seed in range(20):
            mask = cluster_mask(PATCH, size * size, generator=seeded(seed), cluster=size).reshape(8, 64)
            rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
            if columns[0] > 0 and columns[-1] < 63 and rows[0] > 0 and rows[-1] < 7:  # no overhang: one whole block
                assert (len(rows), len(columns)) == (size, size)
                assert mask.sum() == size * size


def in_sequence(grid, count, size, ranks, overhang):
    """Blocks one after the other in the order of their ranks; returns the mask, and what the last block found free."""
    reach = (size - 1) if overhang else (size - 1) // 2
    hidden = np.zeros((grid.rows, grid.columns), dtype=bool)
    for place in np.argsort(ranks, axis=None, kind="stable"):
        row, column = (int(at) - reach for at in np.unravel_index(place, ranks.shape))
        block = np.zeros_like(hidden)
        block[max(row, 0) : row + size, max(column, 0) : column + size] = True
        fresh = block & ~hidden
        if hidden.sum() + fresh.sum() >= count:
            return hidden.ravel(), fresh.ravel()
        hidden |= block
    raise AssertionError("the blocks do not suffice")


@pytest.mark.parametrize("overhang", [True, False])
@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("count", [1, 20, 60, 88])
def test_ranks_do_what_a_sequence_of_blocks_does(count, size, overhang):
    for seed in range(10):
        twin = seeded(seed)
        torch.randint(size, size + 1, (1, 1, 1), generator=twin)
        ranks = torch.rand(1, SMALL.rows + size - 1, SMALL.columns + size - 1, generator=twin)[0].numpy()
        if not overhang:
            ranks = ranks[: SMALL.rows, : SMALL.columns]
        before, last = in_sequence(SMALL, count, size, ranks, overhang)
        mask = cluster_mask(SMALL, count, generator=seeded(seed), cluster=size, overhang=overhang).numpy()
        assert mask[before].all(), "the blocks before the last one are hidden whole"
        assert not mask[~(before | last)].any(), "nothing else is hidden but some of the last block"


def test_no_block_wraps_around():
    for seed in range(200):
        mask = cluster_mask(PATCH, 9, generator=seeded(seed), cluster=3).reshape(8, 64)
        if mask[:, :3].any() and mask[:, -3:].any():  # at least two blocks, or one that wraps
            left, right = mask[:, :3].any(1), mask[:, -3:].any(1)
            assert mask[:, :4].sum() + mask[:, -4:].sum() <= 9
            assert not (left.sum() + right.sum() == 3 and mask[:, 3:-3].sum() == 0), "one block at both edges"


def test_same_seed_same_masks():
    for draw in (cluster_mask, random_mask, official_mask):
        first, again, other = (draw(PATCH, 300, generator=seeded(seed), batch=5) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert len({tuple(mask.tolist()) for mask in first}) == 5
        torch.manual_seed(99)  # the process's own randomness has no say and is not touched
        state = torch.get_rng_state()
        assert torch.equal(draw(PATCH, 300, generator=seeded(1), batch=5), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(draw(PATCH, 300, generator=seeded(1), batch=1)[0], draw(PATCH, 300, generator=seeded(1)))


def test_impossible_masks():
    for wrong in (
        lambda: cluster_mask(PATCH, 0, generator=seeded()),
        lambda: cluster_mask(PATCH, 513, generator=seeded()),
        lambda: random_mask(PATCH, -1, generator=seeded()),
        lambda: cluster_mask(PATCH, 5, generator=seeded(), cluster=0),
        lambda: cluster_mask(PATCH, 5, generator=seeded(), cluster=(5, 3)),
        lambda: official_mask(PATCH, 511, generator=seeded()),
        lambda: official_mask(PATCH, 0, generator=seeded()),
        lambda: cluster_mask(PATCH, 5, generator=seeded(), batch=0),
        lambda: random_mask(PATCH, 5, generator=seeded(), batch=0),
        lambda: official_mask(PATCH, 5, generator=seeded(), batch=-1),
    ):
        with pytest.raises(ValueError, match=r"^[A-Z][^\n]+\.$"):
            wrong()


def published(rows, columns, count, draw):
    """The published algorithm, patch by patch: its order, its wrap, its missing patch 0 and its truncation."""
    size, found = draw.randrange(3) + 3, set()
    while len(found) <= count:
        start = draw.randrange(rows * columns)
        for down in range(size):
            for right in range(size):
                number = start + columns * down + right
                if 0 < number < rows * columns:
                    found.add(number)
    return sorted(found)[:count]


def test_official_masks_have_the_published_biases():
    masks = official_mask(PATCH, 400, generator=seeded(), batch=3000)
    assert masks.sum(1).tolist() == [400] * 3000
    assert not masks[:, [0, -1]].any()
    rows = coverage(masks, PATCH).per_row
    assert rows == pytest.approx([0.41, 0.67, 0.81, 0.87, 0.89, 0.89, 0.89, 0.82], abs=0.02)
    rows = coverage(official_mask(PATCH, 100, generator=seeded(), batch=2000), PATCH).per_row
    assert (rows[0], rows.max(), rows[-1]) == pytest.approx((0.07, 0.26, 0.15), abs=0.02)


@pytest.mark.parametrize("count", [40, 86])
def test_official_masks_are_those_of_the_published_loop(count):
    draw, drawn = random.Random(0), 4000
    loop = torch.zeros(drawn, SMALL.count, dtype=torch.bool)
    for mask in loop:
        mask[published(SMALL.rows, SMALL.columns, count, draw)] = True
    ours = official_mask(SMALL, count, generator=seeded(), batch=drawn)
    assert ours.sum(1).eq(count).all()
    error = (0.5 / drawn) ** 0.5  # the largest standard error of a difference of two rates
    alone = (ours.double().mean(0) - loop.double().mean(0)).abs().max()
    pairs = (torch.cov(ours.double().T) - torch.cov(loop.double().T)).abs().max()
    assert alone < 5 * error
    assert pairs < 5 * error


def test_coverage_by_hand():
    grid = PatchGrid(mel_bins=3, frames=4, shape=(1, 1), stride=(1, 1))
    masks = torch.tensor([[[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]], [[0, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]]])
    seen = coverage(masks.bool().flatten(1), grid)
    assert seen.masks == 2
    assert seen.rate.tolist() == [[0.5, 0.5, 0, 0.5], [0, 0.5, 0.5, 0.5], [0.5, 0, 0, 0.5]]
    assert seen.per_row.tolist() == [0.375, 0.375, 0.25]
    assert seen.per_column == pytest.approx([1 / 3, 1 / 3, 1 / 6, 0.5])
    assert sorted(seen.cluster_sizes) == [1, 1, 1, 2, 3]  # corners do not connect, and neither do two masks
    assert coverage(masks[0].bool().flatten(), grid).masks == 1
    assert len(coverage(torch.zeros(2, 12, dtype=torch.bool), grid).cluster_sizes) == 0


def test_clusters_are_larger_than_those_of_random_masks():
    clustered = coverage(cluster_mask(PATCH, 100, generator=seeded(), batch=200), PATCH).cluster_sizes
    scattered = coverage(random_mask(PATCH, 100, generator=seeded(), batch=200), PATCH).cluster_sizes
    assert clustered.sum() == scattered.sum() == 200 * 100
    assert clustered.mean() > 4 * scattered.mean()
