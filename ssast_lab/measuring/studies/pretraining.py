"""One runner for every study of pretraining: each variant by each seed, then a linear probe of every task.

Runs lie in a folder named after what they compute, so that what is finished is never computed again, not even by another
study that has a run in common.
"""

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ssast_lab import checkpoint
from ssast_lab.config import DataConfig, PretrainConfig, RunConfig, to_dict
from ssast_lab.learning.pretrain import Pretraining, pretrain
from ssast_lab.learning.run import Run
from ssast_lab.measuring.compare import Comparison, compare, write_text
from ssast_lab.measuring.studies.questions import Size, Study, StudyError, Variant

UNTRAINED = "untrained"
Path_ = str | os.PathLike[str]


class Trained(NamedTuple):
    """One variant's runs."""

    name: str
    pattern: str  # of the runs' folders: {seed} stands for the seed
    recipe: PretrainConfig  # of the first seed
    clips: int  # that there are to learn from
    figures: tuple[Mapping[str, Any], ...]  # the last line of each seed's metrics


def run_study(
    study: Study,
    size: Size,
    tasks: Sequence[Path_],
    corpus: Path_,
    runs: Path_,
    seeds: Sequence[int],
    steps: int | None = None,
    cache: Path_ | None = None,
    progress: bool = False,
) -> tuple[list[Trained], Comparison]:
    """Pretrains what is not trained yet, probes it on every task, and returns what was trained and how it compares with the
    first variant, with itself before training, and with the statistics of the log-mel features."""
    corpus, runs = Path(corpus), Path(runs)
    sources = {variant.name: _source(variant, study, corpus, runs) for variant in study.variants}
    count = len(study.variants) * len(seeds)
    recipes = {
        (variant.name, seed): replace(
            size.recipe(variant, count, steps, seed),
            data=DataConfig((str(sources[variant.name]),), (str(corpus / "heldout"),)),
        )
        for seed in seeds
        for variant in study.variants
    }
    patterns = {v.name: _folder(runs, size, recipes[v.name, seeds[0]], corpus) for v in study.variants}
    upstreams = dict(patterns)
    figures: dict[str, list[Mapping[str, Any]]] = {}
    clips = {}
    for (
        name,
        seed,
    ), recipe in recipes.items():  # all variants of a seed first: what is there after a while is comparable
        task = Pretraining(recipe)
        clips[name] = len(task.clips)
        figures.setdefault(name, []).append(
            _train(recipe, patterns[name].replace("{seed}", str(seed)), clips[name], progress)
        )
        kind = recipe.model.patch
        shapes = list(dict.fromkeys(other.model.patch for other in recipes.values()))
        called = UNTRAINED if len(shapes) == 1 else f"{UNTRAINED}, {'patch' if kind[0] == kind[1] else 'frame'}"
        upstreams[called] = _untrained(task, runs, size, seed)
    upstreams["logmel"] = "logmel"
    work = runs / "studies" / study.name
    comparison = compare(upstreams, tasks, work, cache=cache, seeds=seeds, baseline=study.variants[0].name,
                         progress=progress)  # fmt: skip
    trained = [
        Trained(v.name, patterns[v.name], recipes[v.name, seeds[0]], clips[v.name], tuple(figures[v.name]))
        for v in study.variants
    ]
    return trained, comparison


def _train(recipe: PretrainConfig, folder: str, clips: int, progress: bool) -> Mapping[str, Any]:
    """Trains, or goes on, if it is not finished; returns the last line of its metrics."""
    few = (
        recipe.training.steps * recipe.training.batch < clips
    )  # then decoding all of them would take longer than training
    run = Run(folder)
    if recipe.training.steps not in run.checkpoints():
        last = None
        resume = (run.path / "config.json").exists()
        for last in pretrain(
            recipe, RunConfig(folder, resume=resume, keep=1, in_memory=False if few else None), progress
        ):
            pass
        if last is not None and last.step < recipe.training.steps:
            raise KeyboardInterrupt  # the run ended early because it was asked to
    return run.metrics()[-1]


def _at_once(batch: int) -> int:
    """Clips that go through the model together, so that large batches fit into memory."""
    most = 256 if torch.cuda.is_available() else 32
    return next(count for count in range(min(most, batch), 0, -1) if batch % count == 0)


def _untrained(task: Pretraining, runs: Path, size: Size, seed: int) -> str:
    """The model as training begins with it; its pattern."""
    key = _digest(to_dict(task.config.model), task.settings.start)
    pattern = str(runs / "untrained" / f"{size.model}-{key}-seed-{{seed}}")
    folder = Path(pattern.replace("{seed}", str(seed)))
    if not folder.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            checkpoint.save(task.build(), folder, {"steps": 0})
    return pattern


def _folder(runs: Path, size: Size, recipe: PretrainConfig, corpus: Path) -> str:
    """Where the runs of a recipe lie; the sounds count by the corpus's checksum, where it has one."""
    content = to_dict(replace(recipe, training=replace(recipe.training, seed=0)))
    kind = "patch" if recipe.model.patch[0] == recipe.model.patch[1] else "frame"
    key = _digest(content, _manifest(corpus).get("sha256"))
    return str(runs / f"{size.model}-{kind}-{key}-seed-{{seed}}")


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _manifest(corpus: Path) -> dict[str, Any]:
    path = corpus / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# --- parts of a corpus ----------------------------------------------------------------------------------------------


def _source(variant: Variant, study: Study, corpus: Path, runs: Path) -> Path:
    """What a variant trains on: the corpus's folder, or a manifest of as many clips of each of its parts."""
    for role in ("train", "heldout"):
        if not (corpus / role).is_dir():
            raise StudyError(
                f"{corpus} is no corpus: it has no folder {role}. Make one by: ssast-lab data corpus --out {corpus}"
            )
    if not variant.parts:
        return corpus / "train"
    members = _members(corpus)
    count = min(len(_of(members, part)) for other in study.variants for part in other.parts)
    share = count // len(variant.parts)
    chosen = [path for part in variant.parts for path in _of(members, part)[:share]]
    if not share:
        raise StudyError(f"{corpus / 'manifest.tsv'} lists no clip of {' or '.join(variant.parts[0])} to train on.")
    shard = Path(os.path.abspath(corpus))
    text = "path\n" + "".join(f"{shard / path}\n" for path in sorted(chosen))
    file = runs / "corpora" / f"{_digest(chosen)}.tsv"
    write_text(file, text)
    return file


def _members(corpus: Path) -> list[tuple[str, str]]:
    """(kind, shard and member) of the training clips that the corpus lists, in an order drawn once and for all."""
    path = corpus / "manifest.tsv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row["role"] == "train"
            ]
        found = [(row["kind"], f"{row['shard']}:{row['clip']}.opus") for row in rows]
    except (OSError, KeyError) as error:
        raise StudyError(
            f"{path} does not say of which kind each clip is ({type(error).__name__}: {error}): "
            "this study needs a corpus made by ssast-lab data corpus."
        ) from None
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def _of(members: Sequence[tuple[str, str]], kinds: Sequence[str]) -> list[str]:
    return [path for kind, path in members if kind in kinds]
