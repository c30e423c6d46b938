"""The two pretext objectives of SSAST: pick each hidden patch out of the others (InfoNCE), and draw it (MSE).

Axes: B clips, M hidden patches of a clip, K of them that were asked for, P values in a patch. The negatives of a patch are
the other hidden patches of the same clip, as in the paper (section 2.3); all of them, also where only K were asked for.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Prediction(NamedTuple):
    """What a model says about the hidden patches, or the K that it was asked for, in the order of their numbers."""

    contrastive: Tensor  # (B, M, P) c_i of the paper: to be compared with the true patches by dot product
    reconstruction: Tensor  # (B, M, P) r_i of the paper: normalised log-mel


class Losses(NamedTuple):
    """Means over the patches and clips of a batch; () tensors, or (B,) where a function says per clip."""

    total: Tensor
    nce: Tensor  # nats
    mse: Tensor  # squared normalised log-mel
    accuracy: Tensor  # share of the hidden patches that are recognised


def similarity(contrastive: Tensor, targets: Tensor) -> Tensor:
    """(B, K, P), (B, M, P) -> (B, K, M) dot products: row i is prediction i, column j is true patch j."""
    with torch.autocast(contrastive.device.type, enabled=False):  # which would round the scores to 8 bits
        return contrastive.float() @ targets.float().transpose(-1, -2)


def info_nce(scores: Tensor, over: str = "targets", asked: Tensor | None = None) -> Tensor:
    """(B, M, M) similarities -> (B,) InfoNCE of each clip.

    ``over="targets"`` is the paper's equation (1): for each prediction, a softmax over the true patches.
    ``over="predictions"`` is what the official code computes: for each true patch, a softmax over the predictions.
    With ``asked`` (B, K) the similarities are (B, K, M), and row i belongs to the hidden patch ``asked[:, i]``; only the
    paper's softmax can then be had.
    """
    positives = scores.diagonal(dim1=-2, dim2=-1) if asked is None else scores.gather(-1, asked[..., None])[..., 0]
    return (scores.logsumexp(_axis(over, asked)) - positives).mean(-1)


def _axis(over: str, asked: Tensor | None) -> int:
    if over not in ("targets", "predictions"):
        raise ValueError(f'The softmax of InfoNCE runs over "targets" or "predictions", not {over!r}.')
    if over == "predictions" and asked is not None:
        raise ValueError("The softmax over the predictions needs the predictions of all hidden patches.")
    return -1 if over == "targets" else -2


def recognised(scores: Tensor, over: str = "targets", asked: Tensor | None = None) -> Tensor:
    """(B, M, M) similarities -> (B, M) bool: whether a prediction finds its own true patch likelier than any other.

    Likelihoods are those of the softmax of :func:`info_nce`. With ``over="targets"`` that is the largest similarity; with
    ``over="predictions"`` it is what the official code counts, which first weighs each true patch by its softmax.
    With ``asked`` (B, K), (B, K, M) -> (B, K).
    """
    true_places = torch.arange(scores.shape[-1], device=scores.device) if asked is None else asked
    return scores.log_softmax(_axis(over, asked)).argmax(-1) == true_places


def accuracy(scores: Tensor, over: str = "targets", asked: Tensor | None = None) -> Tensor:
    """(B, M, M) similarities -> (B,) share of the hidden patches that are :func:`recognised`, of those asked for."""
    return recognised(scores, over, asked).float().mean(-1)


def reconstruction_mse(reconstruction: Tensor, targets: Tensor) -> Tensor:
    """(B, M, P), (B, M, P) -> (B,) mean squared error over the hidden patches of each clip (the paper's equation (2))."""
    return (reconstruction.float() - targets.float()).square().mean((-2, -1))


def per_clip(
    guess: Prediction,
    targets: Tensor,
    weight: float = 10.0,
    nce_weight: float = 1.0,
    over: str = "targets",
    asked: Tensor | None = None,
) -> Losses:
    """The joint objective of each clip by itself: every field is (B,), a mean over the patches, or
    over those of the numbers ``asked`` (B, K) among the M hidden ones, where the model was asked for these only."""
    scores = similarity(guess.contrastive, targets)
    drawn = targets if asked is None else targets.gather(1, asked[..., None].expand(-1, -1, targets.shape[-1]))
    nce, mse = info_nce(scores, over, asked), reconstruction_mse(guess.reconstruction, drawn)
    return Losses(nce_weight * nce + weight * mse, nce, mse, accuracy(scores.detach(), over, asked))


def joint(
    guess: Prediction,
    targets: Tensor,
    weight: float = 10.0,
    nce_weight: float = 1.0,
    over: str = "targets",
    asked: Tensor | None = None,
) -> Losses:
    """``nce_weight * InfoNCE + weight * MSE``, averaged over the batch (the paper's equation (3): weight 10).

    ``weight=0`` leaves the discriminative objective alone and ``nce_weight=0`` the generative one.
    ``targets`` (B, M, P) are the true values of the hidden patches; no gradient flows into them.
    """
    return Losses(*(value.mean() for value in per_clip(guess, targets.detach(), weight, nce_weight, over, asked)))
