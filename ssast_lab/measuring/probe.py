"""The linear probe: a logistic regression on the frozen embeddings of an upstream. It shows how much of what a task asks for
the embeddings contain in linear form (Alain and Bengio 2016, "Understanding intermediate layers using linear classifier
probes").

Axes: C clips, L labels, D width. Layer and regularisation are chosen without the test clips: on the validation fold where
there is one, else by cross-validation on the training clips that keeps all clips of a source in one fold.
"""

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ssast_lab import checkpoint, data, metrics
from ssast_lab.data import labelled
from ssast_lab.data.labelled import LabelledSet, Split, joined
from ssast_lab.measuring.embedding import embed_clips
from ssast_lab.measuring.upstreams import Upstream

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, the inverse strength of regularisation
MIDDLE = 1e-2  # the C at which the layers are compared
FOLDS = 3  # of the cross-validation
LEAST = 1e-12  # probabilities are clipped to this before their logarithm

Folder = str | os.PathLike[str]
Fold = tuple[np.ndarray, np.ndarray]  # numbers of the rows to learn from, and of those to judge by


class ProbeError(ValueError):
    """A probe that cannot be made: the message says why and what to do."""


class Choice(NamedTuple):
    """What was chosen without the test clips."""

    layer: int  # from 0, which is after the first block
    regularisation: float  # scikit-learn's C: the larger, the weaker
    score: float  # on the clips it was chosen by: accuracy, or mean average precision where clips have several labels


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """What a linear probe reached."""

    upstream: str
    pooling: str
    scores: metrics.Scores  # on the test clips; with numbered folds on all, each judged while its fold was left out
    choices: tuple[Choice, ...]  # one, or one for each numbered fold
    clips: int  # number of embedded clips
    layers: int  # number of layers of the upstream
    embedding_seconds: float
    fitting_seconds: float
    regression: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)  # (L, D) and (L,), of one split
    # whose clips have one label each: its softmax on embeddings of the layer gives the probabilities
    noticed: dict[str, str] = field(default_factory=dict, repr=False)  # name of a clip -> what should be known of it
    split: str = ""  # how the clips were divided, in words

    @property
    def layer(self) -> int:
        """The chosen layer; of several choices the most frequent."""
        layers = [choice.layer for choice in self.choices]
        return max(sorted(set(layers)), key=layers.count)

    @property
    def regularisation(self) -> float:
        """The chosen regularisation; of several choices the most frequent."""
        values = [choice.regularisation for choice in self.choices]
        return max(sorted(set(values)), key=values.count)

    def head(self, name: str) -> checkpoint.Head:
        """What was fitted, to be kept beside the model, with what it reached. Raises :class:`ProbeError` where it is not one
        regression on means."""
        if self.regression is None or self.pooling != "mean":
            raise ProbeError(
                f"{name}: a head is kept of a probe on means, fitted to one training fold of clips with one label each."
            )
        weight, bias = (torch.from_numpy(values).float() for values in self.regression)
        reached = {figure: [float(x) for x in value[:3]] for figure, value in self.scores.headlines.items()}
        counts = self.scores.targets.sum(0)
        about = {"test_clips": len(self.scores.targets), "most_frequent": float(counts.max() / counts.sum()), **reached}
        return checkpoint.Head(name, self.scores.labels, self.layer, weight, bias, about)

    def __str__(self) -> str:
        return (
            f"{self.upstream}: {self.pooling} of layer {self.layer} (of 0 to {self.layers - 1}), C {self.regularisation:g}, "
            f"{self.clips} clips embedded in {self.embedding_seconds:.1f} s, fitted in {self.fitting_seconds:.1f} s\n"
            + "\n".join([*([self.split] if self.split else []), str(self.scores), *data.summary(self.noticed)])
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

    Where every clip has one label, one multinomial regression is fitted, else one regression for each label. ``layer`` is a
    number from 0, or "best": first the layers are compared at one strength of regularisation, then the strengths at the best
    layer; by accuracy (or mean average precision), and among equals by likelihood. ``cache`` is a folder for the embeddings
    (:func:`ssast_lab.measuring.embedding.embed_clips`); ``seed`` draws the cross-validation. The same call gives the same
    result. :class:`ProbeError` for a wrong layer or seed, :class:`ssast_lab.data.labelled.LabelError` for sets that leak.
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
    """:func:`linear_probe` on the folds of a set: train, test and, if it is there, valid; or numbered folds, each of which is
    tested once by a probe that was trained and chosen on the others. A set without folds is divided
    (:func:`ssast_lab.data.labelled.divide`)."""
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
    layers = _layers(upstream, layer)
    if seed < 0:
        raise ProbeError(f"A seed is a whole number from 0, not {seed}.")
    for split in splits:
        labelled.check(split.train, *split.others)

    clock = time.perf_counter()
    clips = list(dict.fromkeys(clip for s in splits for part in (s.train, *s.others) for clip in part.clips))
    noticed: dict[str, str] = {}
    rows = embed_clips(upstream, clips, pooling, cache, device, progress, noticed)
    embeddings = dict(zip(clips, rows, strict=True))
    embedding_seconds = time.perf_counter() - clock

    clock = time.perf_counter()
    multi = any(part.multi for s in splits for part in (s.train, *s.others))
    with _one_thread_each() as pool:
        fits = [_fit(_Fitter(pool, multi), split, embeddings, layers, seed) for split in splits]
    fitting_seconds = time.perf_counter() - clock

    choices, probabilities, regressions = zip(*fits, strict=True)
    tests = joined([split.test for split in splits])
    scores = metrics.score(tests.targets, np.concatenate(probabilities), tests.labels, tests.sources, seed=seed)
    return ProbeResult(
        upstream.name, pooling, scores, choices, len(clips), upstream.layers, embedding_seconds, fitting_seconds,
        regressions[0] if len(splits) == 1 else None, noticed,
        splits[0].told() if len(splits) == 1 else f"{len(splits)} folds, by the numbers that the set names; each is judged once",
    )  # fmt: skip


def _layers(upstream: Upstream, layer: int | str) -> Sequence[int]:
    """The layers to choose from."""
    if layer == "best":
        return range(upstream.layers)
    if isinstance(layer, int) and 0 <= layer < upstream.layers:
        return [layer]
    raise ProbeError(f'layer is "best" or a number from 0 to {upstream.layers - 1}, not {layer!r}.')


def _fit(
    fitter: "_Fitter", split: Split, embeddings: Mapping[data.Clip, np.ndarray], layers: Sequence[int], seed: int
) -> tuple[Choice, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """The choice for a split, (C, L) probabilities of its test clips, and the regression that gave them."""
    train, valid, test = (
        np.stack([embeddings[clip] for clip in part.clips]) if len(part) else np.empty((0,))
        for part in (split.train, split.valid, split.test)
    )
    if len(valid):
        rows = np.arange(len(train) + len(valid))
        fold = rows[: len(train)], rows[len(train) :]
        targets = np.concatenate((split.train.targets, split.valid.targets))
        choice = fitter.choose(np.concatenate((train, valid)), targets, layers, [fold])
    else:
        choice = fitter.choose(train, split.train.targets, layers, _cross_validation(split.train, seed))
    labels = split.train.targets.shape[1]
    model = fitted(train[:, choice.layer], split.train.targets, choice.regularisation, fitter.multi)
    return choice, _probabilities(model, test[:, choice.layer], labels), _linear(model, labels)


@contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """Threads for regressions that each compute on one core. Their matrices are so small that BLAS threads mostly wait for
    each other when the machine has other work (20 times as long was measured)."""
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        # for all threads at once: what each of them set would be undone by whichever ends first
        warnings.filterwarnings("ignore", "Label .* is present in all training examples", UserWarning)
        yield pool


def _cross_validation(train: LabelledSet, seed: int) -> list[Fold]:
    """Folds of the training clips. Clips of one source stay together; where the set has numbered folds, whole folds do. A
    clip of unknown source stands alone."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    folds = set(train.folds)
    together = train.folds if len(folds) > 1 and all(fold.isdecimal() for fold in folds) else train.sources
    names = [name or row for row, name in enumerate(together)]  # a number cannot be the name of a source
    _, group = np.unique([str(name) + type(name).__name__ for name in names], return_inverse=True)
    if group.max() == 0:
        group = np.arange(len(train))  # all from one source: it cannot be kept on one side
    if train.multi:
        grouped = GroupKFold(min(FOLDS, group.max() + 1), shuffle=True, random_state=seed)
        return list(grouped.split(group, groups=group))
    true = train.targets.argmax(1)
    count = min(FOLDS, group.max() + 1, np.bincount(true).max())
    stratified = StratifiedGroupKFold(int(count), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # it is missing from some folds
        drawn = list(stratified.split(group, true, group))
    return [fold for fold in drawn if all(map(len, fold))]


class _Fitter:
    """Fits logistic regressions and compares them."""

    def __init__(self, pool: ThreadPoolExecutor, multi: bool) -> None:
        self.pool, self.multi = pool, multi  # multi: a clip may have any number of labels

    def choose(
        self, embeddings: np.ndarray, targets: np.ndarray, layers: Sequence[int], folds: Sequence[Fold]
    ) -> Choice:
        """(C, layers, D), (C, L) -> the layer that is best at a middling regularisation, and then the best regularisation
        for that layer."""
        layer = layers[0]
        if len(layers) > 1:
            layer = max(self._tried(embeddings, targets, [(layer, MIDDLE) for layer in layers], folds))[2].layer
        return max(self._tried(embeddings, targets, [(layer, strength) for strength in GRID], folds))[2]

    def _tried(
        self,
        embeddings: np.ndarray,
        targets: np.ndarray,
        settings: Sequence[tuple[int, float]],
        folds: Sequence[Fold],
    ) -> list[tuple[float, float, Choice]]:
        """(score, likelihood, choice) for each (layer, regularisation), over the held-out rows of all folds together."""

        def predict(job: tuple[tuple[int, float], Fold]) -> np.ndarray:
            (layer, strength), (learn, judge) = job
            x = embeddings[:, layer]
            return probabilities_of(x[learn], targets[learn], x[judge], strength, self.multi)

        jobs = [(setting, fold) for setting in settings for fold in folds]
        guesses = list(self.pool.map(predict, jobs))
        truth = np.concatenate([targets[judge] for _, judge in folds])
        tried = []
        for number, (layer, strength) in enumerate(settings):
            guess = np.concatenate(guesses[number * len(folds) : (number + 1) * len(folds)])
            score, likelihood = self._judged(truth, guess)
            tried.append((score, likelihood, Choice(layer, strength, score)))
        return tried

    def _judged(self, targets: np.ndarray, guess: np.ndarray) -> tuple[float, float]:
        """(score, mean log likelihood) of (C, L) probabilities."""
        likelihood = np.log(np.clip(np.where(targets > 0.5, guess, 1 - guess), LEAST, None))
        if self.multi:
            return float(np.nanmean(metrics.average_precisions(targets > 0.5, guess))), float(likelihood.mean())
        right = guess.argmax(1) == targets.argmax(1)
        return float(right.mean()), float(likelihood[targets > 0.5].mean())


def probabilities_of(
    train: np.ndarray, targets: np.ndarray, test: np.ndarray, strength: float, multi: bool
) -> np.ndarray:
    """(C, D), (C, L), (C', D) -> (C', L) probabilities of the labels by logistic regression on standardised embeddings; 0 for
    labels that no training clip has. ``multi``: one regression for each label instead of one for all."""
    return _probabilities(fitted(train, targets, strength, multi), test, targets.shape[1])


def fitted(train: np.ndarray, targets: np.ndarray, strength: float, multi: bool) -> "Pipeline":
    """The logistic regression of :func:`probabilities_of`, behind what standardises the embeddings."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier, true = LogisticRegression(C=strength, max_iter=10_000), targets.argmax(1)
    if multi:
        classifier, true = OneVsRestClassifier(classifier), (targets > 0.5).astype(int)
    elif (true == true[0]).all():  # which a logistic regression refuses
        classifier = DummyClassifier()
    return make_pipeline(StandardScaler(), classifier).fit(train.astype(np.float64), true)


def _probabilities(model: "Pipeline", test: np.ndarray, labels: int) -> np.ndarray:
    probabilities = np.zeros((len(test), labels))
    probabilities[:, model.classes_] = model.predict_proba(test.astype(np.float64))
    return probabilities


def _linear(model: "Pipeline", labels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(L, D) and (L,): the standardisation and the regression as one linear map, of which the softmax is taken."""
    scaler, classifier = model[0], model[-1]
    if not hasattr(classifier, "coef_"):
        return None
    weight, bias = classifier.coef_ / scaler.scale_, classifier.intercept_
    if len(classifier.classes_) == 2:  # of two classes the regression keeps the second one's odds only
        weight, bias = np.concatenate((np.zeros_like(weight), weight)), np.concatenate((np.zeros_like(bias), bias))
    all_weights, all_biases = np.zeros((labels, weight.shape[1])), np.full(labels, -np.inf)
    all_weights[classifier.classes_] = weight
    all_biases[classifier.classes_] = bias - weight @ scaler.mean_
    return all_weights, all_biases
