"""Laws of the two objectives, against sums written out by hand."""

import math

import pytest
import torch

from ssast_lab.objectives import (
    Prediction,
    accuracy,
    info_nce,
    joint,
    per_clip,
    recognised,
    reconstruction_mse,
    similarity,
)


def example(batch=3, hidden=7, values=6):
    guess = Prediction(*(torch.randn(batch, hidden, values, requires_grad=True) for _ in range(2)))
    return guess, torch.randn(batch, hidden, values)


def test_info_nce_by_hand_on_four_patches():
    c = [[1.0, 0.5], [0.2, -0.3], [-1.0, 0.6], [1.4, 0.9]]  # predictions
    x = [[0.8, 0.1], [-0.2, 0.6], [-0.9, -0.4], [0.3, 1.1]]  # true patches
    s = [[sum(a * b for a, b in zip(c[i], x[j])) for j in range(4)] for i in range(4)]
    paper = -sum(math.log(math.exp(s[i][i]) / sum(math.exp(s[i][j]) for j in range(4))) for i in range(4)) / 4
    code = -sum(math.log(math.exp(s[i][i]) / sum(math.exp(s[j][i]) for j in range(4))) for i in range(4)) / 4
    assert abs(paper - code) > 0.01, "the example must tell the two orientations apart"

    scores = torch.tensor(c, dtype=torch.float64) @ torch.tensor(x, dtype=torch.float64).T
    assert info_nce(scores[None]).item() == pytest.approx(paper, rel=1e-12)
    assert info_nce(scores[None], over="targets").item() == pytest.approx(paper, rel=1e-12)
    assert info_nce(scores[None], over="predictions").item() == pytest.approx(code, rel=1e-12)
    torch.testing.assert_close(similarity(torch.tensor([c]), torch.tensor([x]))[0].double(), scores)

    share = [max(range(4), key=lambda j: s[i][j]) == i for i in range(4)]
    assert recognised(scores[None])[0].tolist() == share
    assert accuracy(scores[None]).item() == sum(share) / 4


def test_ignorance_costs_the_logarithm_of_the_choices():
    for over in ("targets", "predictions"):
        assert info_nce(torch.zeros(2, 400, 400), over).tolist() == pytest.approx([math.log(400)] * 2)


def test_perfect_predictions():
    targets = torch.nn.functional.normalize(torch.randn(2, 9, 32), dim=-1)
    guess = Prediction(1000 * targets, targets)
    for over in ("targets", "predictions"):
        losses = joint(guess, targets, over=over)
        assert losses.accuracy == 1
        assert losses.nce < 1e-6
        assert losses.mse == 0


def test_large_scores_stay_finite():
    guess, targets = example()
    losses = joint(Prediction(1e6 * guess.contrastive, guess.reconstruction), 1e6 * targets)
    assert all(value.isfinite() for value in losses)


def test_no_gradient_into_the_targets():
    guess, targets = example()
    targets.requires_grad_(True)
    joint(guess, targets).total.backward()
    assert targets.grad is None
    assert guess.contrastive.grad.abs().sum() > 0
    assert guess.reconstruction.grad.abs().sum() > 0


def test_weights():
    guess, targets = example()
    both = joint(guess, targets, weight=3.0, nce_weight=0.5)
    assert both.total.item() == pytest.approx(0.5 * both.nce.item() + 3 * both.mse.item())
    paper = joint(guess, targets)
    assert paper.total.item() == pytest.approx(paper.nce.item() + 10 * paper.mse.item())
    joint(guess, targets, weight=0.0).total.backward()
    assert not guess.reconstruction.grad.any()
    guess, targets = example()
    joint(guess, targets, nce_weight=0.0).total.backward()
    assert not guess.contrastive.grad.any()


def test_mse_by_hand():
    guess, targets = example(2, 3, 4)
    drawn = guess.reconstruction.detach()
    by_hand = [
        sum((drawn[b, m, p] - targets[b, m, p]).item() ** 2 for m in range(3) for p in range(4)) / 12 for b in range(2)
    ]
    assert reconstruction_mse(drawn, targets).tolist() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("over", ["targets", "predictions"])
def test_batch_equals_singles(over):
    guess, targets = example()
    batch = per_clip(guess, targets, over=over)
    for clip in range(3):
        alone = joint(Prediction(*(value[clip : clip + 1] for value in guess)), targets[clip : clip + 1], over=over)
        for one, all_of_them in zip(alone, batch, strict=True):
            torch.testing.assert_close(one, all_of_them[clip])
    for mean, every in zip(joint(guess, targets, over=over), batch, strict=True):
        torch.testing.assert_close(mean, every.mean())


def test_half_precision_does_not_round_the_scores():
    guess, targets = example(1, 50, 256)
    exact = joint(guess, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = joint(guess, targets)
    assert mixed.total.dtype == torch.float32
    assert torch.equal(mixed.nce, exact.nce)


def test_unknown_orientation():
    with pytest.raises(ValueError, match=r"^The softmax of InfoNCE runs over [^\n]+\.$"):
        info_nce(torch.zeros(1, 2, 2), over="rows")
