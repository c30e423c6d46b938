"""What an upstream says of a task's test clips: made once and kept as JSON.

A row is keyed by the upstream's weights, the task's content and the settings, so that a comparison that was interrupted
goes on, and one that is made again with an upstream more computes only what is new.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ssast_lab import checkpoint, config, metrics
from ssast_lab.audio import AudioError
from ssast_lab.checkpoint import CheckpointError
from ssast_lab.config import ConfigError, FineTuneConfig, LabelledConfig, ModelConfig, RunConfig
from ssast_lab.data import DataError, labelled
from ssast_lab.data.labelled import LabelError, LabelledSet
from ssast_lab.learning.classify import fine_tune, logits
from ssast_lab.learning.run import RunError
from ssast_lab.measuring.compare.pages import write_text
from ssast_lab.measuring.compare.records import PROBED, TUNED, Entry, averaged
from ssast_lab.measuring.probe import ProbeError, probe_task
from ssast_lab.measuring.upstreams import Upstream, UpstreamError, upstream
from ssast_lab.metrics import MetricError
from ssast_lab.model import Classifier, Encoder

FORMAT = "ssast-lab comparison 1"
SEED = "{seed}"  # in an upstream's name: each seed in turn
SENTENCES = (  # what one upstream or task may fail by, without ending the comparison
    AudioError, CheckpointError, ConfigError, DataError, LabelError, MetricError, ProbeError, RunError, UpstreamError,
)  # fmt: skip

Path_ = str | os.PathLike[str]


class Task(NamedTuple):
    """A labelled set to compare on."""

    name: str
    path: str
    set: LabelledSet | None
    key: str  # sha256 of labels, folds, sources and the clips' contents
    failure: str = ""

    @property
    def tests(self) -> LabelledSet:
        """The clips that are tested, in the order in which they are."""
        assert self.set is not None
        tests = [one.test for one in labelled.splits(self.set)]
        return LabelledSet(
            tests[0].labels,
            tuple(clip for test in tests for clip in test.clips),
            np.concatenate([test.targets for test in tests]),
            tuple(source for test in tests for source in test.sources),
            tuple(fold for test in tests for fold in test.folds),
        )


def read_tasks(paths: Sequence[Path_]) -> list[Task]:
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
        found = labelled.read_labelled(path)
        if not any(found.folds):
            found = labelled.divide(found)
        for split in labelled.splits(found):  # before anything is trained for them
            labelled.check(split.train, *split.others)
        return Task(name, os.fspath(path), found, _task_key(found))
    except SENTENCES as error:
        return Task(name, os.fspath(path), None, "", str(error))
    except OSError as error:
        return Task(name, os.fspath(path), None, "", f"A clip cannot be read: {error}.")


def _task_key(task: LabelledSet) -> str:
    digest = hashlib.sha256(json.dumps([task.labels, task.sources, task.folds]).encode())
    digest.update(np.ascontiguousarray(task.targets).data)
    for clip in task.clips:
        opened = clip.open()
        content = Path(opened).read_bytes() if isinstance(opened, str) else opened.read()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def member(name: str, seed: int) -> str:
    """The upstream of a seed: ``scratch:NAME`` drawn by it, or the one whose name holds it."""
    scratch = re.fullmatch(r"scratch:(.+)", name)
    return f"scratch@{seed}:{scratch[1]}" if scratch else name.replace(SEED, str(seed))


def recipe_of(
    recipe: str, model: ModelConfig, name: str, task: Task, seed: int, epochs: int | None, clips: int
) -> FineTuneConfig:
    """How a model is fine-tuned on a task by a seed, when its smallest training fold has so many clips."""
    kind = next((k for k, shape in config.SHAPES.items() if shape == model.patch), "patch")
    whole = config.finetune_config(f"{recipe}-{kind}", member(name, seed))
    training = replace(whole.training, seed=seed, batch=min(whole.training.batch, clips))
    if epochs is not None:
        training = replace(training, epochs=epochs, steps=None)
    return replace(whole, data=LabelledConfig(train=task.path), training=training)


def tuned(asked: FineTuneConfig, folder: Path, progress: bool) -> tuple[Classifier, float]:
    """The classifier of a folder, fine-tuned first unless it is finished, and the seconds that took."""
    run = RunConfig(str(folder), resume=(folder / "config.json").exists(), keep=1)
    last = None
    for last in fine_tune(asked, run, progress):
        pass
    if last is not None and not last.judgements:
        raise KeyboardInterrupt  # the run ended early because it was asked to
    classifier = checkpoint.load(folder)
    assert isinstance(classifier, Classifier)
    return classifier, last.seconds if last else 0.0


class Worker:
    """Makes the rows, or reads those that were made."""

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

    def entries(self, called: str, name: str, tasks: Sequence[Task], seeds: Sequence[int]) -> Iterator[Entry]:
        methods = [PROBED, *([TUNED] if self.recipe else [])]
        rows: dict[tuple[str, str], list[dict[str, Any] | str]] = {}
        for seed in seeds:
            drawn = member(name, seed) != name or seed == seeds[0]
            try:
                found: Upstream | str = upstream(member(name, seed), self.download)
            except SENTENCES as error:
                found = str(error)
            for task in tasks:
                for method in methods:
                    if drawn or method == TUNED:
                        rows.setdefault((task.name, method), []).append(self._row(found, name, task, method, seed))
        for task in tasks:
            for method in methods:
                yield _entry(called, task, method, rows[task.name, method])

    def _row(self, found: Upstream | str, name: str, task: Task, method: str, seed: int) -> dict[str, Any] | str:
        """What the upstream says of the task's test clips, or why it cannot."""
        if isinstance(found, str) or task.set is None:
            return found if isinstance(found, str) else task.failure
        try:
            if method == PROBED:
                settings = {"pooling": self.pooling, "layer": self.layer}
                return self._kept(found, task, method, settings, lambda folder: self._probe(found, task))
            if not isinstance(getattr(found, "module", None), Encoder):
                return f"{name} is no masked spectrogram model, so that it was not fine-tuned."
            recipe = self._recipe(found, name, task, seed)
            settings = config.to_dict(replace(recipe, model="", data=LabelledConfig()))
            return self._kept(found, task, method, settings, lambda folder: self._tune(recipe, task, folder))
        except SENTENCES as error:
            return str(error)

    def _kept(self, found: Upstream, task: Task, method: str, settings: dict[str, Any], make: Any) -> dict[str, Any]:
        """The row of this content and these settings, made if it is not there yet."""
        key = json.dumps([FORMAT, found.key, task.key, method, settings], sort_keys=True)
        file = self.out / "rows" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        if not file.exists():
            row = {"upstream": found.name, "task": task.name, "method": method, "settings": settings}
            row |= make(self.out / "fine-tuned" / file.stem)
            write_text(file, json.dumps(row) + "\n")
        return json.loads(file.read_text(encoding="utf-8"))

    def _probe(self, found: Upstream, task: Task) -> dict[str, Any]:
        assert task.set is not None
        result = probe_task(found, task.set, self.layer, self.pooling, self.cache, progress=self.progress)
        return {
            "layer": result.layer,
            "regularisation": result.regularisation,
            "seconds": result.embedding_seconds + result.fitting_seconds,
            "scores": result.scores.scores.tolist(),
        }

    def _recipe(self, found: Any, name: str, task: Task, seed: int) -> FineTuneConfig:
        assert task.set is not None
        smallest = min(len(one.train) for one in labelled.splits(task.set))
        return recipe_of(self.recipe, found.module.config, name, task, seed, self.epochs, smallest)

    def _tune(self, recipe: FineTuneConfig, task: Task, folder: Path) -> dict[str, Any]:
        """Every fold by the classifier that did not train on it."""
        assert task.set is not None
        found, seconds = [], 0.0
        for split in labelled.splits(task.set):
            part = folder / (f"fold-{split.name}" if split.name else "run")
            classifier, took = tuned(replace(recipe, data=replace(recipe.data, fold=split.name)), part, self.progress)
            seconds += took
            classifier.to("cuda" if torch.cuda.is_available() else "cpu").eval()
            found.append(logits(classifier, split.test.clips))
        return {"layer": None, "seconds": seconds, "scores": np.concatenate(found).tolist()}


def _entry(called: str, task: Task, method: str, rows: Sequence[dict[str, Any] | str]) -> Entry:
    failures = [row for row in rows if isinstance(row, str)]
    if failures:
        return Entry(called, task.name, method, failures[0])
    done = [row for row in rows if isinstance(row, dict)]
    tests = task.tests
    assert task.set is not None
    try:
        runs = [metrics.score(tests.targets, np.array(r["scores"]), tests.labels, tests.sources) for r in done]
    except MetricError as error:
        return Entry(called, task.name, method, str(error))
    layers = tuple(row["layer"] for row in done if row["layer"] is not None)
    seconds = sum(row["seconds"] for row in done)
    return Entry(called, task.name, method, "", tuple(runs), layers, len(task.set), seconds, averaged(runs))
