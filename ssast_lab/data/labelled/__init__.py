"""Labelled sets of sound: the labels, source and fold of every clip.

    sets.py     which clip has which labels
    names.py    what the labels are called, and texts that name several
    readers.py  folders, tables, official JSON, saved datasets
    splits.py   training, validation and test
    leaks.py    checks that a split can be trusted

    folder, table, JSON, dataset --readers--> LabelledSet --splits--> train, valid, test --leaks--> a split to be trusted

A whole set is read before anything is trained, and :func:`check` refuses a split that leaks: the same recording, voice or
instrument in the training set and in the test set.
"""

from ssast_lab.data.labelled.leaks import check
from ssast_lab.data.labelled.readers import read_labelled
from ssast_lab.data.labelled.sets import LabelError, LabelledSet, joined
from ssast_lab.data.labelled.splits import Split, divide, splits

__all__ = ["LabelError", "LabelledSet", "Split", "check", "divide", "joined", "read_labelled", "splits"]
