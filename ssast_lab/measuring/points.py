"""Windows of many sounds as points: a layout of them in the plane, groups of them, and who is near to whom.

Axes: W windows, D width.
"""

from typing import Literal, get_args

import numpy as np

Method = Literal["pca", "umap", "t-sne"]
METHODS: tuple[str, ...] = get_args(Method)
BLOCK = 1 << 12  # windows that are compared at a time: they stay in the processor's cache
FEWEST_DIMENSIONS = 50  # to which UMAP and t-SNE are given the embeddings, by PCA


class PointsError(ValueError):
    """Windows that cannot be laid out: the message says why."""


def lay_out(embeddings: np.ndarray, method: Method = "pca", seed: int = 0) -> np.ndarray:
    """(W, D) -> (W, 2) float32. PCA at once; "umap" (which needs umap-learn) and "t-sne" keep neighbours together, and take
    seconds. :class:`PointsError` where umap-learn is missing."""
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
        raise PointsError("UMAP needs the package umap-learn: pip install 'ssast-lab[map]', or choose t-SNE.") from None
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
    wanted = np.asarray(embedding, np.float32) - mean
    cosines = np.empty(len(values), np.float32)
    for first in range(0, len(values), BLOCK):
        centred = values[first : first + BLOCK] - mean
        lengths = np.linalg.norm(centred, axis=1) * np.linalg.norm(wanted)
        cosines[first : first + BLOCK] = centred @ wanted / np.maximum(lengths, 1e-12)
    best = np.argsort(-cosines, kind="stable")[:count]
    return best, cosines[best]
