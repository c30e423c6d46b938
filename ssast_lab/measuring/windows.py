"""Windows of many sounds as points: their embeddings, a layout of them in the plane, and who is near to whom.

Axes: W windows, S samples at 16 kHz, L layers, D width.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
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
SHORTEST = 0.25  # of a window: a shorter rest at a sound's end is no window of the map


class WindowsError(ValueError):
    """Windows that cannot be laid out: the message says why."""


def cut(blocks: Iterable[Tensor], window: int, hop: int, least: int = 1, grid: int = 1) -> Iterator[tuple[int, Tensor]]:
    """Blocks of a sound (n,) -> (first sample, (S,)) of its windows, each ``hop`` samples after the one before, while no more than
    a window and a block are held.

    All are ``window`` samples long, but for a sound that is shorter and is one window. Where at least ``least`` samples are left
    behind the last, there is one more, which ends with the sound, or begins at a multiple of ``grid`` and ends less than that before.
    """
    held, first, following = torch.empty(0), 0, 0  # held begins at sample first; the next window at sample following
    waiting: list[Tensor] = []
    end = 0
    for block in blocks:
        waiting.append(block)
        end += len(block)
        if end < following + window:
            continue
        held, waiting = torch.cat((held, *waiting)), []
        while following + window <= end:
            yield following, held[following - first :][:window]
            following += hop
        keep = max(min(following, end - window - grid), first)
        held, first = held[keep - first :], keep
    behind = following - hop + window if following else 0
    if end - behind >= least or not following:
        start = max(end - window, 0) // grid * grid
        yield start, torch.cat((held, *waiting))[start - first :][:window]


def embed_windows(upstream: Upstream, waveform: Tensor, seconds: float) -> Iterator[tuple[list[float], np.ndarray]]:
    """(S,) -> where some windows begin, in seconds, and (W, L, D) float16, some windows at a time."""
    window = round(seconds * audio.SAMPLE_RATE)
    pieces = cut([waveform], window, window, round(SHORTEST * window))
    while group := [*islice(pieces, max(int(BATCH_SECONDS / seconds), 1))]:
        embeddings = upstream.embed(torch.stack([piece for _, piece in group]), "mean").half().cpu().numpy()
        yield [first / audio.SAMPLE_RATE for first, _ in group], embeddings


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
