"""Rows: the scores that an upstream gives to a task's test clips, computed once and kept as JSON.

A row is keyed by the upstream's weights, the task's content and the settings. An interrupted comparison can therefore be
resumed, and one that is repeated with another upstream computes only what is new.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ssast_lab import checkpoint, config, files, metrics
from ssast_lab.audio import AudioError
from ssast_lab.checkpoint import CheckpointError
from ssast_lab.config import ConfigError, FineTuneConfig, LabelledConfig, ModelConfig, RunConfig
from ssast_lab.data import DataError, labelled
from ssast_lab.data.labelled import LabelError, LabelledSet, joined
from ssast_lab.learning.classify import fine_tune, logits
from ssast_lab.learning.run import RunError
from ssast_lab.measuring.compare.pages import write_text
from ssast_lab.measuring.compare.records import PROBED, TUNED, TaskResult, averaged
from ssast_lab.measuring.probe import ProbeError, probe_task
from ssast_lab.measuring.upstreams import Upstream, UpstreamError, upstream
from ssast_lab.metrics import MetricError
from ssast_lab.model import Classifier, Encoder

FORMAT = "ssast-lab comparison 1"
SEED = "{seed}"  # in an upstream's name: replaced by each seed
EXPECTED_ERRORS = (  # one upstream or task may fail with these, and the comparison goes on
    AudioError, CheckpointError, ConfigError, DataError, LabelError, MetricError, ProbeError, RunError, UpstreamError,
)  # fmt: skip

Path_ = str | os.PathLike[str]


class Task(NamedTuple):
    """A labelled set to compare on."""

    name: str
    path: str
    set: LabelledSet | None  # None where it cannot be used
    key: str  # SHA-256 of labels, folds, sources and the contents of the clips
    failure: str = ""  # why it cannot be used

    @property
    def tests(self) -> LabelledSet:
        """The test clips of all splits, in the order in which rows have them."""
        assert self.set is not None
        return joined([split.test for split in labelled.splits(self.set)])


def read_tasks(paths: Sequence[Path_]) -> list[Task]:
    """Labelled sets (:func:`ssast_lab.data.labelled.read_labelled`), each named after its folder or file; by its path where
    two have the same name."""
    names = [_task_name(Path(path)) for path in paths]
    return [
        _read_task(name if names.count(name) == 1 else os.fspath(path), path)
        for name, path in zip(names, paths, strict=True)
    ]


def _task_name(path: Path) -> str:
    path = path.parent if path.name == "task.csv" else path
    return path.resolve().name.removesuffix(path.suffix) if path.is_file() else path.resolve().name


def _read_task(name: str, path: Path_) -> Task:
    try:
        task = labelled.read_labelled(path)
        if not any(task.folds):
            task = labelled.divide(task)
        for split in labelled.splits(task):  # before anything is trained
            labelled.check(split.train, *split.others)
        contents = (clip.sha256() for clip in task.clips)
        labels = [task.labels, task.sources, task.folds]
        key = files.sha256(labels, np.ascontiguousarray(task.targets).data, *contents)
        return Task(name, os.fspath(path), task, key)
    except EXPECTED_ERRORS as error:
        return Task(name, os.fspath(path), None, "", str(error))
    except OSError as error:
        return Task(name, os.fspath(path), None, "", f"A clip cannot be read: {error}.")


def with_seed(name: str, seed: int) -> str:
    """The name of an upstream for a seed: ``scratch@SEED:NAME`` for ``scratch:NAME``; in others {seed} is filled in."""
    scratch = re.fullmatch(r"scratch:(.+)", name)
    return f"scratch@{seed}:{scratch[1]}" if scratch else name.replace(SEED, str(seed))


def recipe_of(
    recipe: str, model: ModelConfig, name: str, task: Task, seed: int, epochs: int | None, clips: int
) -> FineTuneConfig:
    """How a model is fine-tuned on a task with a seed; ``clips``: the size of its smallest training fold, which bounds the
    batch."""
    kind = next((k for k, shape in config.SHAPES.items() if shape == model.patch), "patch")
    tuning = config.finetune_config(f"{recipe}-{kind}", with_seed(name, seed))
    training = replace(tuning.training, seed=seed, batch=min(tuning.training.batch, clips))
    if epochs is not None:
        training = replace(training, epochs=epochs, steps=None)
    return replace(tuning, data=LabelledConfig(train=task.path), training=training)


def fine_tuned(tuning: FineTuneConfig, folder: Path, progress: bool) -> tuple[Classifier, float]:
    """The classifier in a folder and the seconds that its training took; trained first, or further, where it is not finished.
    KeyboardInterrupt where training was stopped."""
    run = RunConfig(str(folder), resume=(folder / "config.json").exists(), keep=1)
    last = None
    for last in fine_tune(tuning, run, progress):
        pass
    if last is not None and not last.judgements:
        raise KeyboardInterrupt  # Ctrl-C ends a run early and without an error
    classifier = checkpoint.load(folder)
    assert isinstance(classifier, Classifier)
    return classifier, last.seconds if last else 0.0


class Rows:
    """The rows of a comparison: read where they were kept, else computed."""

    def __init__(
        self,
        out: Path,
        pooling: str,
        layer: int | str,
        cache: Path_ | None,
        recipe: str,
        epochs: int | None,
        download: bool,
        progress: bool,
    ) -> None:
        self.out, self.pooling, self.layer, self.cache = out, pooling, layer, cache
        self.recipe, self.epochs, self.download, self.progress = recipe, epochs, download, progress

    def results(self, title: str, name: str, tasks: Sequence[Task], seeds: Sequence[int]) -> Iterator[TaskResult]:
        """The results of an upstream on each task, by each method; ``title`` names it in the table."""
        methods = [PROBED, *([TUNED] if self.recipe else [])]
        rows: dict[tuple[str, str], list[dict[str, Any] | str]] = {}
        for seed in seeds:
            differs = with_seed(name, seed) != name or seed == seeds[0]  # else the seed does not change the upstream
            try:
                model: Upstream | str = upstream(with_seed(name, seed), self.download)
            except EXPECTED_ERRORS as error:
                model = str(error)
            for task in tasks:
                for method in methods:
                    if differs or method == TUNED:
                        rows.setdefault((task.name, method), []).append(self._row(model, name, task, method, seed))
        for task in tasks:
            for method in methods:
                yield _result(title, task, method, rows[task.name, method])

    def _row(self, model: Upstream | str, name: str, task: Task, method: str, seed: int) -> dict[str, Any] | str:
        """The row, or a sentence that says why there is none; ``model`` may be such a sentence already."""
        if isinstance(model, str) or task.set is None:
            return model if isinstance(model, str) else task.failure
        try:
            if method == PROBED:
                settings = {"pooling": self.pooling, "layer": self.layer}
                return self._kept(model, task, method, settings, lambda folder: self._probe(model, task))
            if not isinstance(getattr(model, "module", None), Encoder):
                return f"{name} is no masked spectrogram model, so that it was not fine-tuned."
            tuning = self._tuning(model, name, task, seed)
            settings = config.to_dict(replace(tuning, model="", data=LabelledConfig()))
            return self._kept(model, task, method, settings, lambda folder: self._tune(tuning, task, folder))
        except EXPECTED_ERRORS as error:
            return str(error)

    def _kept(self, model: Upstream, task: Task, method: str, settings: dict[str, Any], make: Any) -> dict[str, Any]:
        """The row with this content and these settings, made first where it is missing."""
        key = files.sha256([FORMAT, model.key, task.key, method, settings])
        file = self.out / "rows" / f"{key[:32]}.json"
        if not file.exists():
            row = {"upstream": model.name, "task": task.name, "method": method, "settings": settings}
            row |= make(self.out / "fine-tuned" / file.stem)
            write_text(file, files.to_json(row) + "\n")
        return json.loads(file.read_text(encoding="utf-8"))

    def _probe(self, model: Upstream, task: Task) -> dict[str, Any]:
        assert task.set is not None
        result = probe_task(model, task.set, self.layer, self.pooling, self.cache, progress=self.progress)
        return {
            "layer": result.layer,
            "regularisation": result.regularisation,
            "seconds": result.embedding_seconds + result.fitting_seconds,
            "scores": result.scores.scores.tolist(),
            "noticed": result.noticed,
        }

    def _tuning(self, model: Any, name: str, task: Task, seed: int) -> FineTuneConfig:
        assert task.set is not None
        smallest = min(len(split.train) for split in labelled.splits(task.set))
        return recipe_of(self.recipe, model.module.config, name, task, seed, self.epochs, smallest)

    def _tune(self, tuning: FineTuneConfig, task: Task, folder: Path) -> dict[str, Any]:
        """Fine-tunes a classifier for each split; every fold is judged by the classifier that did not train on it."""
        assert task.set is not None
        scores, seconds, noticed = [], 0.0, dict[str, str]()
        for split in labelled.splits(task.set):
            run = folder / (f"fold-{split.name}" if split.name else "run")
            fold = replace(tuning, data=replace(tuning.data, fold=split.name))
            classifier, took = fine_tuned(fold, run, self.progress)
            seconds += took
            classifier.to("cuda" if torch.cuda.is_available() else "cpu").eval()
            scores.append(logits(classifier, split.test.clips, noticed=noticed))
        return {"layer": None, "seconds": seconds, "scores": np.concatenate(scores).tolist(), "noticed": noticed}


def _result(title: str, task: Task, method: str, rows: Sequence[dict[str, Any] | str]) -> TaskResult:
    """The result out of one row for each seed."""
    failures = [row for row in rows if isinstance(row, str)]
    if failures:
        return TaskResult(title, task.name, method, failures[0])
    done = [row for row in rows if isinstance(row, dict)]
    tests = task.tests
    assert task.set is not None
    try:
        runs = [metrics.score(tests.targets, np.array(r["scores"], float), tests.labels, tests.sources) for r in done]
    except MetricError as error:
        return TaskResult(title, task.name, method, str(error))
    layers = tuple(row["layer"] for row in done if row["layer"] is not None)
    seconds = sum(row["seconds"] for row in done)
    noticed = {name: what for row in done for name, what in row.get("noticed", {}).items()}
    return TaskResult(
        title, task.name, method, "", tuple(runs), layers, len(task.set), seconds, averaged(runs), noticed
    )
