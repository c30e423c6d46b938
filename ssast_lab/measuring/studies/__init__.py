"""Studies: questions that the paper leaves open, each answered by one command, with seeds and intervals.

    questions.py    the questions, and the variants that each one compares
    pretraining.py  the training runs of a study
    pages.py        page, table and figure
    hiding.py       a classifier's accuracy as more and more patches are hidden
    study.py        the command: a study from training to its page

question (data) --pretraining--> runs --compare--> linear probes --pages--> NAME.md, NAME.csv and a figure
classifier --hiding--> accuracy by the share of hidden patches --> the same
"""

from ssast_lab.measuring.studies.hiding import run_hiding, write_hiding
from ssast_lab.measuring.studies.pages import write_study
from ssast_lab.measuring.studies.pretraining import run_study
from ssast_lab.measuring.studies.questions import SIZES, STUDIES, Size, Study, StudyError, Variant
from ssast_lab.measuring.studies.study import study

__all__ = [
    "SIZES", "STUDIES", "Size", "Study", "StudyError", "Variant", "run_hiding", "run_study", "study", "write_hiding",
    "write_study",
]  # fmt: skip
