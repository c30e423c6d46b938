"""Windows of many sounds as points: their embeddings, a layout of them in the plane, and who is near to whom.

Axes: W windows, S samples at 16 kHz, L layers, D width.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ssast_lab import audio
from ssast_lab.measuring.upstreams import Upstream

Method = Literal["pca", "umap", "t-sne"]
METHODS: tuple[str, ...] = get_args(Method)
BATCH_SECONDS = 16  # of sound that is embedded at once
FEWEST_DIMENSIONS = 50  # to which UMAP and t-SNE are given the embeddings, by PCA
SHORTEST = 0.25  # of a window: a shorter rest at a sound's end is left out


class WindowsError(ValueError):
    """Windows that cannot be laid out: the message says why."""


def starts(samples: int, seconds: float) -> list[int]:
    """The first samples of the windows of a sound, one after another; a sound shorter than a window is one window."""
    window = round(seconds * audio.SAMPLE_RATE)
    found = [*range(0, max(samples, 1), window)]
    return found[:-1] if len(found) > 1 and samples - found[-1] < SHORTEST * window else found


def embed_windows(upstream: Upstream, waveform: Tensor, seconds: float) -> Iterator[np.ndarray]:
    """(S,) -> (W, L, D) float16, some windows at a time; the last window may be shorter than ``seconds``."""
    window = round(seconds * audio.SAMPLE_RATE)
    pieces = [waveform[first : first + window] for first in starts(len(waveform), seconds)]
    most = max(int(BATCH_SECONDS / seconds), 1)
    whole = [piece for piece in pieces if len(piece) == window]
    for group in [whole[place : place + most] for place in range(0, len(whole), most)]:
        yield upstream.embed(torch.stack(group), "mean").half().cpu().numpy()
    for rest in pieces[len(whole) :]:
        yield upstream.embed(rest[None], "mean").half().cpu().numpy()


def lay_out(embeddings: np.ndarray, method: Method = "pca", seed: int = 0) -> np.ndarray:
    """(W, D) -> (W, 2) float32. PCA at once; "umap" (which needs umap-learn) and "t-sne" keep neighbours together, and take
    seconds. :class:`WindowsError` where umap-learn is missing."""
    values = np.asarray(embeddings, np.float32)
    if len(values) < 3:
        return np.array([[place, 0] for place in range(len(values))], np.float32).reshape(-1, 2)
    if method == "pca" or len(values) < 8:
        return _principal(values, 2)
    values = _principal(values, min(FEWEST_DIMENSIONS, *values.shape))
    laid = _umap(values, seed) if method == "umap" else _tsne(values, seed)
    return np.ascontiguousarray(laid, np.float32)


def _principal(values: np.ndarray, dimensions: int) -> np.ndarray:
    """(W, D) -> (W, dimensions), by the eigenvectors of the covariance. Each axis points to where its largest value is, so that more
    windows do not turn the picture over."""
    centred = values - values.mean(0)
    _, vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    axes = vectors[:, ::-1][:, :dimensions]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return (centred @ axes).astype(np.float32)


def _umap(values: np.ndarray, seed: int) -> np.ndarray:
    try:
        import umap
    except ImportError:
        raise WindowsError("UMAP needs the package umap-learn: install it, or choose t-SNE.") from None
    neighbours = min(15, len(values) - 1)
    return umap.UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1, init="pca").fit_transform(values)


def _tsne(values: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    return TSNE(perplexity=min(30, (len(values) - 1) / 3), init="pca", random_state=seed).fit_transform(values)


def alike(embeddings: np.ndarray, groups: int = 8, seed: int = 0) -> np.ndarray:
    """(W, D) -> (W,): which of some groups of similar windows each is in, the largest first (k-means)."""
    from sklearn.cluster import KMeans

    values = np.asarray(embeddings, np.float32)
    if len(values) <= groups:
        return np.arange(len(values))
    labels = KMeans(groups, n_init=1, random_state=seed).fit_predict(values)
    places = np.argsort(np.argsort(-np.bincount(labels, minlength=groups), kind="stable"))
    return places[labels]


def nearest(embeddings: np.ndarray, embedding: np.ndarray, count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """(W, D), (D,) -> numbers of the nearest windows, best first, and their cosine to the embedding, both centred on the mean of
    the windows."""
    values = np.asarray(embeddings, np.float32)
    mean = values.mean(0)
    centred, wanted = values - mean, np.asarray(embedding, np.float32) - mean
    lengths = np.linalg.norm(centred, axis=1) * np.linalg.norm(wanted)
    cosines = centred @ wanted / np.maximum(lengths, 1e-12)
    best = np.argsort(-cosines, kind="stable")[:count]
    return best, cosines[best]
