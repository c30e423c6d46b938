"""Labelled sets of sound: which clip has which labels, from which source it comes, and on which side of a split it stands.

    sets.py     which clip has which labels
    readers.py  folders, tables, official JSON
    splits.py   training, validation and test
    leaks.py    what would make a split worthless

    folder, table, official JSON --readers--> LabelledSet --splits--> train, valid, test --leaks--> a split worth its figures

A set is read whole before anything is trained, and :func:`check` refuses a split that would give figures worth nothing: the
same recording, voice or instrument in training and in the test.
"""

from ssast_lab.data.labelled.leaks import check
from ssast_lab.data.labelled.readers import read_labelled
from ssast_lab.data.labelled.sets import LabelError, LabelledSet, joined
from ssast_lab.data.labelled.splits import Split, divide, splits

__all__ = ["LabelError", "LabelledSet", "Split", "check", "divide", "joined", "read_labelled", "splits"]
