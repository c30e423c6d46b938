"""Studies: what is asked of the models, each answered by one command, with seeds and intervals.

    questions.py    what is asked
    pretraining.py  the runs of a study
    pages.py        page, table and figure
    hiding.py       what a classifier still tells apart when parts are hidden
    study.py        a study from pretraining to its page

question (data) --pretraining--> runs --compare--> linear probes --pages--> NAME.md, NAME.csv and a figure
a classifier --hiding--> what it still tells apart --> the same
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
