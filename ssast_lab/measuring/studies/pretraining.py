"""The runs of a study: pretrains each variant with each seed, then probes it on every task.

The name of a run's folder is made of a checksum of its recipe, so that nothing is trained twice, even where two studies share
a run.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ssast_lab import checkpoint, files
from ssast_lab.config import DataConfig, PretrainConfig, RunConfig, to_dict
from ssast_lab.data.corpus import CorpusError, read_rows
from ssast_lab.learning.pretrain import Pretraining, ShortClips, on_lengths, pretrain
from ssast_lab.learning.run import Run
from ssast_lab.measuring.compare import Comparison, compare, write_text
from ssast_lab.measuring.studies.questions import Size, Study, StudyError, Variant

UNTRAINED = "untrained"
Path_ = str | os.PathLike[str]


class Trained(NamedTuple):
    """One variant's runs."""

    name: str
    pattern: str  # the folders of the runs, with {seed} for the seed
    recipe: PretrainConfig  # of the first seed
    clips: int  # in its training set
    figures: tuple[Mapping[str, Any], ...]  # the last line of the metrics of each seed


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
    """Pretrains the variants that are not trained yet and probes them on every task. Returns what was trained, and its
    comparison with the first variant, with the untrained model and with statistics of the log-mel features.
    :class:`StudyError` where the corpus cannot be used."""
    corpus, runs = Path(corpus), Path(runs)
    sources = {variant.name: _source(variant, study, corpus, runs) for variant in study.variants}
    count = len(study.variants) * len(seeds)
    recipes = {
        (variant.name, seed): replace(
            size.recipe(variant, count, steps, seed),
            data=DataConfig((str(sources[variant.name]),), (str(corpus / "heldout"),) if _is_made(corpus) else ()),
        )
        for seed in seeds
        for variant in study.variants
    }
    patterns = {v.name: _folder(runs, size, recipes[v.name, seeds[0]], corpus) for v in study.variants}
    upstreams = dict(patterns)
    figures: dict[str, list[Mapping[str, Any]]] = {}
    clips = {}
    advised: set[str] = set()
    shapes = {recipe.model.patch for recipe in recipes.values()}
    for (name, seed), recipe in recipes.items():  # seed by seed, so that finished runs can be compared early
        pretraining = Pretraining(recipe)
        clips[name] = len(pretraining.clips)
        folder = patterns[name].replace("{seed}", str(seed))
        advice = on_lengths(pretraining.clips, recipe)
        if advice and advice not in advised:  # many runs hear the same clips
            warnings.warn(ShortClips(advice), stacklevel=2)
            advised.add(advice)
        figures.setdefault(name, []).append(_train(recipe, folder, clips[name], progress))
        title = UNTRAINED if len(shapes) == 1 else f"{UNTRAINED}, {_shape(recipe)}"
        upstreams[title] = _untrained(pretraining, recipe, runs, size)
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
    """Trains a run, or resumes it, unless it is finished. Returns the last line of its metrics."""
    few = recipe.training.steps * recipe.training.batch < clips  # decoding all clips would take longer than training
    run = Run(folder)
    if recipe.training.steps not in run.checkpoints():
        last = None
        resume = (run.path / "config.json").exists()
        settings = RunConfig(folder, resume=resume, keep=1, in_memory=False if few else None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ShortClips)
            steps = pretrain(recipe, settings, progress)
        for last in steps:
            pass
        if last is not None and last.step < recipe.training.steps:
            raise KeyboardInterrupt  # Ctrl-C ends a run early and without an error
    return run.metrics()[-1]


def _untrained(pretraining: Pretraining, recipe: PretrainConfig, runs: Path, size: Size) -> str:
    """Saves the model that training starts from. Returns the pattern of its folders."""
    key, seed = _digest(to_dict(recipe.model), recipe.training.start), recipe.training.seed
    pattern = str(runs / "untrained" / f"{size.model}-{key}-seed-{{seed}}")
    folder = Path(pattern.replace("{seed}", str(seed)))
    if not folder.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            checkpoint.save(pretraining.build(), folder, {"steps": 0})
    return pattern


def _folder(runs: Path, size: Size, recipe: PretrainConfig, corpus: Path) -> str:
    """The pattern of the folders of a recipe's runs. The checksum of the corpus, where it has one, is part of the key."""
    content = to_dict(replace(recipe, training=replace(recipe.training, seed=0)))
    key = _digest(content, _manifest(corpus).get("sha256"))
    return str(runs / f"{size.model}-{_shape(recipe)}-{key}-seed-{{seed}}")


def _shape(recipe: PretrainConfig) -> str:
    return "patch" if recipe.model.patch[0] == recipe.model.patch[1] else "frame"


def _digest(*content: Any) -> str:
    return files.sha256(content)[:12]


def _manifest(corpus: Path) -> dict[str, Any]:
    path = corpus / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# --- parts of a corpus ----------------------------------------------------------------------------------------------


def _source(variant: Variant, study: Study, corpus: Path, runs: Path) -> Path:
    """The training set of a variant: a folder of recordings, the training folder of a corpus that ssast-lab data corpus made, or a
    manifest with equally many clips of each of its parts."""
    if not corpus.exists():
        raise StudyError(
            f"There is no {corpus}: name a folder of recordings, or make a corpus by: ssast-lab data corpus --out {corpus}"
        )
    if not variant.parts:
        return corpus / "train" if _is_made(corpus) else corpus
    members = _members(corpus)
    count = min(len(_of(members, part)) for other in study.variants for part in other.parts)
    share = count // len(variant.parts)
    chosen = [path for part in variant.parts for path in _of(members, part)[:share]]
    if not share:
        raise StudyError(f"{corpus / 'manifest.tsv'} lists no clip of {' or '.join(variant.parts[0])} to train on.")
    folder = Path(os.path.abspath(corpus))
    text = "path\n" + "".join(f"{folder / path}\n" for path in sorted(chosen))
    file = runs / "corpora" / f"{_digest(chosen)}.tsv"
    write_text(file, text)
    return file


def _is_made(corpus: Path) -> bool:
    """Whether ssast-lab data corpus made it; any other folder holds recordings, of which training sets some aside."""
    return all((corpus / role).is_dir() for role in ("train", "heldout"))


def _members(corpus: Path) -> list[tuple[str, str]]:
    """(kind, "shard:member") of the training clips in the corpus's manifest, in a random order that is always the same."""
    try:
        rows = read_rows(corpus / "manifest.tsv")
    except CorpusError as error:
        raise StudyError(f"{error} This study needs a corpus made by ssast-lab data corpus.") from None
    members = [(row["kind"], f"{row['shard']}:{row['clip']}.opus") for row in rows if row["role"] == "train"]
    return [members[i] for i in np.random.default_rng(0).permutation(len(members))]


def _of(members: Sequence[tuple[str, str]], kinds: Sequence[str]) -> list[str]:
    return [path for kind, path in members if kind in kinds]
