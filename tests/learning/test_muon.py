"""Muon: its directions are orthogonal, its steps are PyTorch's own Muon's, and what is no matrix takes AdamW's."""

import copy
import re

import pytest
import torch
from tiny import here, tiny, train, weights

from ssast_lab.learning.muon import Muon, orthogonalise
from ssast_lab.learning.pretrain import Pretraining


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (3, 16, 48)])
def test_singular_values_come_near_to_one(shape, dtype):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices *= torch.logspace(-6, 6, len(matrices)).reshape(-1, *[1] * (len(shape) - 1)) if len(shape) == 3 else 1e-6
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    given = torch.linalg.svdvals(orthogonalise(matrices, dtype))
    strong = torch.linalg.svdvals(matrices) > 0.1 * torch.linalg.matrix_norm(matrices, 2)[..., None]
    assert given.max() < 1.25
    assert given[strong].min() > 0.6
    similar = (orthogonalise(matrices, dtype) * (left @ right)).sum((-2, -1)) / (left @ right).square().sum((-2, -1))
    assert similar.min() > 0.85  # the polar factor, but for the scatter of the singular values


def test_a_batch_of_matrices_is_each_by_itself():
    matrices = torch.randn(5, 8, 12)
    torch.testing.assert_close(orthogonalise(matrices), torch.stack([orthogonalise(each) for each in matrices]))


def layers() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 18), torch.nn.GELU(), torch.nn.Linear(18, 6))


def test_steps_are_those_of_torch():
    """Of its Muon for the matrices, which rounds to bfloat16, and of its AdamW for the biases."""
    ours, theirs = layers(), layers()
    matrices, vectors = ([p for p in ours.parameters() if p.ndim == n] for n in (2, 1))
    optimizer = Muon(
        [dict(params=matrices, orthogonal=True), dict(params=vectors, weight_decay=0.0)],
        0.02,
        (0.9, 0.95),
        weight_decay=0.1,
    )
    muon = torch.optim.Muon(
        [p for p in theirs.parameters() if p.ndim == 2], 0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW([p for p in theirs.parameters() if p.ndim == 1], 0.02, (0.9, 0.95), weight_decay=0.0)
    x, before = torch.randn(32, 6), copy.deepcopy(ours)
    for _ in range(3):
        for model, optimizers in ((ours, [optimizer]), (theirs, [muon, adamw])):
            model.zero_grad()
            (model(x) - x.roll(1, 0)).square().mean().backward()
            for each in optimizers:
                each.step()
    for (name, one), other, start in zip(
        ours.named_parameters(), theirs.parameters(), before.parameters(), strict=True
    ):
        assert (one - other).norm() < 0.05 * (one - start).norm(), name


def test_goes_on_from_its_state():
    """Saved and loaded half way, it takes the same steps bit for bit."""
    x = torch.randn(16, 6)

    def advance(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    def start():
        model = layers()
        parts = [[p for p in model.parameters() if p.ndim == n] for n in (2, 1)]
        return model, Muon([dict(params=parts[0], orthogonal=True), dict(params=parts[1])], 0.01, fused=True)

    whole, optimizer = start()
    advance(whole, optimizer, 4)
    first, optimizer = start()
    advance(first, optimizer, 2)
    second, again = start()
    second.load_state_dict(first.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    advance(second, again, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_matrices_without_a_gradient_stay():
    weight = torch.nn.Parameter(torch.eye(4))
    Muon([dict(params=[weight], orthogonal=True)], 0.1).step()
    assert torch.equal(weight, torch.eye(4))


def test_it_moves_the_matrices_of_the_blocks_and_adamw_all_else(clips, tmp_path):
    """The first step of AdamW moves every value by the learning rate, up or down; one of Muon's does not."""
    config = tiny(clips, optimizer="muon", warmup=0, weight_decay=0.0, steps=1)
    train(config, here(tmp_path / "run"))
    torch.manual_seed(config.training.seed)
    before, after = Pretraining(config).build().state_dict(), weights(tmp_path / "run", 1)
    moves = {name: float((after[name] - before[name]).abs().median()) / config.training.learning_rate for name in after}
    orthogonal = {name for name in moves if re.search(r"blocks.*(qkv|out|mlp\.\d)\.weight", name)}
    assert len(orthogonal) == 2 * 4
    assert all(0.05 < moves[name] < 0.3 for name in orthogonal)  # with a root mean square of 0.2
    assert all(moves[name] == pytest.approx(1, rel=1e-2) for name in moves.keys() - orthogonal)
