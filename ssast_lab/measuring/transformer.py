"""Embeddings in a pipeline of scikit-learn.

Axes: C sounds, S samples, D width.
"""

import io
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ssast_lab.audio import SAMPLE_RATE, AudioError
from ssast_lab.measuring.embedder import Embedder
from ssast_lab.measuring.listener import Sound

KINDS = (str, os.PathLike, bytes, io.IOBase, np.ndarray, torch.Tensor)  # of a single sound


class SoundEmbedder(TransformerMixin, BaseEstimator):
    """Sounds in, one embedding each out, for a pipeline::

        make_pipeline(SoundEmbedder("tiny-patch"), StandardScaler(), LogisticRegression()).fit(paths, labels)

    The sounds are paths, bytes of files, or arrays at ``rate`` Hz: a list of any lengths, or (C, S) where all are equally long. The model is frozen: fitting only looks that it
    is there. The other parameters are those of :class:`ssast_lab.Embedder`.
    """

    def __init__(
        self,
        model: str = "tiny-patch",
        layers: int | tuple[int, ...] = -1,
        pooling: str = "mean",
        seconds: float | None = None,
        hop: float | None = None,
        rate: int = SAMPLE_RATE,
        device: str | None = None,
    ) -> None:
        self.model, self.layers, self.pooling, self.seconds, self.hop = model, layers, pooling, seconds, hop
        self.rate, self.device = rate, device

    def _embedder(self) -> Embedder:
        layers = tuple(self.layers) if isinstance(self.layers, Iterable) else self.layers
        return _made(self.model, layers, self.pooling, self.seconds, self.hop, self.device)

    def sounds(self, X: Any, reset: bool) -> Sequence[Sound]:
        """Paths and arrays of any lengths as they are, (C, S) as scikit-learn checks it, row by row."""
        if isinstance(X, str | os.PathLike):
            raise ValueError(f"Give a list of sounds, as in [{os.fspath(X)!r}].")
        listed = [*X] if isinstance(X, list | tuple) or (getattr(X, "ndim", 0) == 1 and not sparse.issparse(X)) else []
        if listed and all(isinstance(sound, KINDS) for sound in listed):
            return listed
        return [*validate_data(self, X, reset=reset, dtype=np.float64)]

    def fit(self, X: Any, y: Any = None) -> Self:
        self.sounds(X, reset=True)
        self.n_features_out_ = self._embedder().width
        return self

    def transform(self, X: Any) -> np.ndarray:
        """-> (C, D) float32; :class:`ssast_lab.audio.AudioError` names a sound that cannot be read."""
        check_is_fitted(self)
        sounds = self.sounds(X, reset=False)
        table = self._embedder().many(sounds, self.rate)
        for number, why in table.left_out.items():
            raise AudioError(f"Sound {number} of {len(sounds)} cannot be embedded: {why}")
        return table.clips()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        check_is_fitted(self)
        return np.array([f"embedding{number}" for number in range(self.n_features_out_)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []  # whatever goes in, float32 comes out
        return tags


@lru_cache(maxsize=4)
def _made(*asked: Any) -> Embedder:
    """Clones, copies and folds of a pipeline share the model; and an estimator that is pickled holds no weights."""
    return Embedder(*asked)
