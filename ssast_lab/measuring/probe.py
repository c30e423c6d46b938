"""The linear probe: a logistic regression on the frozen embeddings of an upstream, which says how much of what a task asks
for can be read off linearly (Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes").

Axes: C clips, L labels, D width. The layer and the strength of regularisation are settled without the test clips: on the
validation fold where there is one, else by cross-validation on the training clips that keeps a source on one side.
"""

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ssast_lab import data, metrics
from ssast_lab.data import labelled
from ssast_lab.data.labelled import LabelledSet, Split
from ssast_lab.measuring.embedding import embed_clips
from ssast_lab.measuring.upstreams import Upstream

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # the inverse strength of regularisation, scikit-learn's C
MIDDLE = 1e-2  # at which the layers are compared
SPLITS = 3  # of the cross-validation
LEAST = 1e-12  # probability, where a label was thought impossible

Folder = str | os.PathLike[str]


class ProbeError(ValueError):
    """A probe that cannot be made: the message says why and what to do."""


class Choice(NamedTuple):
    """What was settled without the test clips."""

    layer: int  # from 0, the one after the first block
    regularisation: float  # scikit-learn's C: the larger, the weaker
    score: float  # accuracy, or mean average precision where clips have several labels, of what it was chosen by


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """What a linear probe reached."""

    upstream: str
    pooling: str
    scores: metrics.Scores  # on the test clips; of numbered folds, on all clips, each when its fold was left out
    choices: tuple[Choice, ...]  # one, or one for each numbered fold
    clips: int  # that were embedded
    layers: int  # of the upstream
    embedding_seconds: float
    fitting_seconds: float

    @property
    def layer(self) -> int:
        """The one that was chosen, most often if there are several choices."""
        layers = [choice.layer for choice in self.choices]
        return max(sorted(set(layers)), key=layers.count)

    @property
    def regularisation(self) -> float:
        """The one that was chosen, most often if there are several choices."""
        values = [choice.regularisation for choice in self.choices]
        return max(sorted(set(values)), key=values.count)

    def __str__(self) -> str:
        return (
            f"{self.upstream}: {self.pooling} of layer {self.layer} (of 0 to {self.layers - 1}), C {self.regularisation:g}, "
            f"{self.clips} clips embedded in {self.embedding_seconds:.1f} s, fitted in {self.fitting_seconds:.1f} s\n"
            f"{self.scores}"
        )


def linear_probe(
    upstream: Upstream,
    train: LabelledSet,
    test: LabelledSet,
    valid: LabelledSet | None = None,
    layer: int | str = "best",
    pooling: str = "mean",
    cache: Folder | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> ProbeResult:
    """How well a logistic regression on standardised embeddings, trained on ``train``, does on ``test``.

    Clips with one label each are told apart by one multinomial regression, others by one regression for each label. The
    ``layer`` is a number from 0, or "best": the layers are compared at one strength of regularisation, and then the
    strengths at the best layer, by accuracy (or mean average precision), and where that is the same by likelihood.
    Embeddings are kept in the folder ``cache`` (:func:`ssast_lab.measuring.embedding.embed_clips`); ``seed`` draws the
    cross-validation. The same call gives the same result. :class:`ssast_lab.data.labelled.LabelError` for sets that leak.
    """
    split = Split("", train, train.take([]) if valid is None else valid, test)
    return _probe(upstream, [split], layer, pooling, cache, seed, device, progress)


def probe_task(
    upstream: Upstream,
    task: LabelledSet,
    layer: int | str = "best",
    pooling: str = "mean",
    cache: Folder | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> ProbeResult:
    """:func:`linear_probe` on the folds of a set: train and test, and valid if it is there; or numbered folds, of which each
    is left out once and tested by what was learned and chosen on the others; without any, as :func:`~ssast_lab.data.labelled.divide`
    draws them."""
    return _probe(upstream, labelled.splits(task), layer, pooling, cache, seed, device, progress)


def _probe(
    upstream: Upstream,
    splits: Sequence[Split],
    layer: int | str,
    pooling: str,
    cache: Folder | None,
    seed: int,
    device: torch.device | str | None,
    progress: bool,
) -> ProbeResult:
    if layer == "best":
        layers: Sequence[int] = range(upstream.layers)
    elif isinstance(layer, int) and 0 <= layer < upstream.layers:
        layers = [layer]
    else:
        raise ProbeError(f'layer is "best" or a number from 0 to {upstream.layers - 1}, not {layer!r}.')
    if seed < 0:
        raise ProbeError(f"A seed is a whole number from 0, not {seed}.")
    for one in splits:
        labelled.check(one.train, *one.others)

    clock = time.perf_counter()
    numbers: dict[data.Clip, int] = {}
    for one in splits:
        for part in (one.train, *one.others):
            for clip in part.clips:
                numbers.setdefault(clip, len(numbers))
    embeddings = embed_clips(upstream, list(numbers), pooling, cache, device, progress)  # (C, layers, D)
    embedding_seconds = time.perf_counter() - clock

    clock = time.perf_counter()
    choices, found = [], []
    several = any(part.multi for one in splits for part in (one.train, *one.others))
    with _one_thread_each() as pool:
        fitter = _Fitter(pool, several)
        for one in splits:
            train, *others = (embeddings[[numbers[clip] for clip in part.clips]] for part in (one.train, *one.others))
            if not len(one.valid):
                choice = fitter.choose(train, one.train.targets, layers, _splits(one.train, seed))
            else:
                count, total = len(one.train), len(one.train) + len(one.valid)
                both = np.concatenate((train, others[0])), np.concatenate((one.train.targets, one.valid.targets))
                choice = fitter.choose(*both, layers, [(np.arange(count), np.arange(count, total))])
            choices.append(choice)
            features = train[:, choice.layer], others[-1][:, choice.layer]
            found.append(fitter.predict(features[0], one.train.targets, features[1], choice.regularisation))
    fitting_seconds = time.perf_counter() - clock

    tests = [one.test for one in splits]
    scores = metrics.score(
        np.concatenate([test.targets for test in tests]),
        np.concatenate(found),
        tests[0].labels,
        [source for test in tests for source in test.sources],
        seed=seed,
    )
    return ProbeResult(
        upstream.name,
        pooling,
        scores,
        tuple(choices),
        len(numbers),
        upstream.layers,
        embedding_seconds,
        fitting_seconds,
    )


@contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """Threads for regressions of which each computes alone: their matrices are so small that BLAS threads, shared with
    other work on the machine, mostly wait for each other (20 times as long was measured)."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield pool


def _splits(train: LabelledSet, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows to learn from, rows to choose by) of a cross-validation: sources stay together, or numbered folds, which are made
    so that they do; clips of unknown source stand for themselves."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    folds = set(train.folds)
    together = train.folds if len(folds) > 1 and all(fold.isdecimal() for fold in folds) else train.sources
    groups = [name or row for row, name in enumerate(together)]  # a number is the name of no source
    _, group = np.unique([str(name) + type(name).__name__ for name in groups], return_inverse=True)
    if group.max() == 0:
        group = np.arange(len(train))  # all from one source: it cannot be kept on one side
    if train.multi:
        splitter = GroupKFold(min(SPLITS, group.max() + 1), shuffle=True, random_state=seed)
        return list(splitter.split(group, groups=group))
    true = train.targets.argmax(1)
    most = min(SPLITS, group.max() + 1, np.bincount(true).max())
    stratified = StratifiedGroupKFold(int(most), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # it is then left out of some
        splits = list(stratified.split(group, true, group))
    return [(learned, chosen) for learned, chosen in splits if len(learned) and len(chosen)]


class _Fitter:
    """Logistic regressions on standardised embeddings."""

    def __init__(self, pool: ThreadPoolExecutor, several: bool) -> None:
        self.pool, self.several = pool, several  # several: a clip may have any number of labels

    def choose(
        self,
        embeddings: np.ndarray,
        targets: np.ndarray,
        layers: Sequence[int],
        splits: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> Choice:
        """(C, layers, D), (C, L) -> the layer at a middling regularisation, and then the regularisation at this layer."""
        if len(layers) > 1:
            layer = max(self._tried(embeddings, targets, [(layer, MIDDLE) for layer in layers], splits))[2].layer
        else:
            layer = layers[0]
        return max(self._tried(embeddings, targets, [(layer, strength) for strength in GRID], splits))[2]

    def _tried(
        self,
        embeddings: np.ndarray,
        targets: np.ndarray,
        settings: Sequence[tuple[int, float]],
        splits: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> list[tuple[float, float, Choice]]:
        """(score, likelihood, choice) of each (layer, regularisation), over the clips to choose by of all splits together."""
        jobs = [(layer, strength, *split) for layer, strength in settings for split in splits]

        def job(layer: int, strength: float, learned: np.ndarray, chosen: np.ndarray) -> np.ndarray:
            x = embeddings[:, layer]
            return self.predict(x[learned], targets[learned], x[chosen], strength)

        guesses = list(self.pool.map(lambda job_: job(*job_), jobs))
        truth = np.concatenate([targets[chosen] for _, chosen in splits])
        tried = []
        for number, (layer, strength) in enumerate(settings):
            guess = np.concatenate(guesses[number * len(splits) : (number + 1) * len(splits)])
            score, likelihood = self._judged(truth, guess)
            tried.append((score, likelihood, Choice(layer, strength, score)))
        return tried

    def _judged(self, targets: np.ndarray, guess: np.ndarray) -> tuple[float, float]:
        """(score, mean log likelihood) of (C, L) probabilities."""
        likely = np.log(np.clip(np.where(targets > 0.5, guess, 1 - guess), LEAST, None))
        if self.several:
            return float(np.nanmean(metrics.average_precisions(targets > 0.5, guess))), float(likely.mean())
        right = guess.argmax(1) == targets.argmax(1)
        return float(right.mean()), float(likely[targets > 0.5].mean())

    def predict(self, train: np.ndarray, targets: np.ndarray, test: np.ndarray, strength: float) -> np.ndarray:
        """(C, D), (C, L), (C', D) -> (C', L) probabilities of each label."""
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(train.astype(np.float64))
        train, test = (scaler.transform(x.astype(np.float64)) for x in (train, test))
        if self.several:
            columns = [_regress(train, column > 0.5, test, strength).get(True, 0.0) for column in targets.T]
        else:
            found = _regress(train, targets.argmax(1), test, strength)
            columns = [found.get(place, 0.0) for place in range(targets.shape[1])]
        return np.stack([np.broadcast_to(column, len(test)) for column in columns], axis=1)


def _regress(train: np.ndarray, true: np.ndarray, test: np.ndarray, strength: float) -> dict[int, np.ndarray | float]:
    """Class -> (C',) its probability, of the classes that occur in training."""
    from sklearn.linear_model import LogisticRegression

    if len(classes := np.unique(true)) == 1:
        return {classes[0]: 1.0}
    model = LogisticRegression(C=strength, max_iter=10_000).fit(train, true)
    return dict(zip(model.classes_.tolist(), model.predict_proba(test).T, strict=True))
