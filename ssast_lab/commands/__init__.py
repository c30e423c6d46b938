"""What the command line does, a function for each command, which takes its arguments.

    arguments.py   what their arguments are called in their help
    progress.py    how far a command is
    sounds.py      data look, statistics, corpus, tasks
    scores.py      what a classifier reached, as files
    learning.py    pretrain, finetune
    models.py      info, export
    embedding.py   embed, near, predict
    measuring.py   probe, compare, study, bench
    completion.py  completion

Each imports what it needs when it runs, so that ``ssast-lab --help`` answers at once.
"""

from ssast_lab.commands.completion import completion
from ssast_lab.commands.embedding import embed, near, predict
from ssast_lab.commands.learning import finetune, pretrain
from ssast_lab.commands.measuring import bench, compare, probe, study
from ssast_lab.commands.models import export, info
from ssast_lab.commands.sounds import data

__all__ = [
    "bench",
    "compare",
    "completion",
    "data",
    "embed",
    "export",
    "finetune",
    "info",
    "near",
    "predict",
    "pretrain",
    "probe",
    "study",
]
