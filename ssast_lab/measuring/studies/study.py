"""The command that makes a study."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from ssast_lab.measuring.studies.hiding import run_hiding, write_hiding
from ssast_lab.measuring.studies.pages import write_study
from ssast_lab.measuring.studies.pretraining import run_study
from ssast_lab.measuring.studies.questions import SIZES, STUDIES, StudyError

HIDING = "hiding"
EPOCHS = {"minutes": 2, "overnight": None, "gpu": None}  # size -> epochs of hiding's classifiers; None: the recipe's

Path_ = str | os.PathLike[str]


def study(
    name: str,
    tasks: Sequence[Path_],
    corpus: Path_ | None = None,
    out: Path_ = "studies",
    size: str = "overnight",
    seeds: Sequence[int] = (),
    steps: int | None = None,
    models: Sequence[str] = ("tiny-patch", "tiny-frame"),
    runs: Path_ = "runs/studies",
    cache: Path_ | None = "runs/embeddings",
    progress: bool = False,
) -> Path:
    """Makes a study and writes ``NAME.md``, ``NAME.csv`` and its figure. Finished runs are used again.

    Returns the path of the page. :class:`ssast_lab.measuring.studies.StudyError` where the study cannot be made.

    Args:
        name: shapes, masks, objectives, corpora, batches, or hiding.
        tasks: the labelled sets to probe or to fine-tune on.
        corpus: a folder of recordings, or of a corpus (ssast-lab data corpus), to train on; hiding needs none.
        out: the folder that the page is written into.
        size: minutes, overnight (on a CPU) or gpu.
        seeds: of training; by default those of the size.
        steps: of every training run, instead of the size's.
        models: for hiding: classifiers of the task's labels, or models to fine-tune on the task.
        runs: the folder of the training runs.
        cache: the folder of the embeddings.
        progress: shows progress bars.
    """
    if size not in SIZES:
        raise StudyError(f"There is no size {size!r}; there are {', '.join(SIZES)}.")
    if not tasks:
        raise StudyError(
            "Name the tasks to measure on, folders with one of clips for each label, or as made by ssast-lab data tasks (--tasks)."
        )
    command = _command(name, tasks, corpus, out, size, seeds, steps, models)
    seeds = list(dict.fromkeys(seeds)) or SIZES[size].seeds
    if name == HIDING:
        curves, failures = run_hiding(models, tasks, runs, seeds, epochs=EPOCHS[size], progress=progress)
        return write_hiding(curves, failures, out, command)
    if name not in STUDIES:
        raise StudyError(f"There is no study {name!r}; there are {', '.join(STUDIES)} and {HIDING}.")
    if corpus is None:
        raise StudyError(
            f"The study {name} trains: name a folder of recordings, or a corpus made by ssast-lab data corpus (--corpus)."
        )
    trained, comparison = run_study(STUDIES[name], SIZES[size], tasks, corpus, runs, seeds, steps, cache, progress)
    return write_study(STUDIES[name], trained, comparison, tasks, out, command)


def _command(
    name: str,
    tasks: Sequence[Path_],
    corpus: Path_ | None,
    out: Path_,
    size: str,
    seeds: Sequence[int],
    steps: int | None,
    models: Sequence[str],
) -> str:
    words = ["ssast-lab", "study", name, "--tasks", *map(str, tasks), "--out", str(out), "--size", size]
    words += ["--seeds", *map(str, seeds)] if seeds else []
    if name == HIDING:
        words += ["--models", *models]
    else:
        words += ["--corpus", str(corpus), *(["--steps", str(steps)] if steps else [])]
    return shlex.join(words)
