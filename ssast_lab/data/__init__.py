"""Sound to learn from.

streams.py   what is drawn at random, and the number that keeps it apart
clips.py     folders, manifests and shards of unlabelled sound
batches.py   which piece of which clip stands in which batch
packing.py   windows that several short clips fill
labelled/    sets with labels, how they are split, and what would make a split worthless
datasets.py  ESC-50, Speech Commands, AudioSet and others in the folders in which they are handed out
corpus/      free sound to learn from, that anyone with Debian can rebuild
tasks/       small labelled tasks to be measured on, likewise
"""

from ssast_lab.data.batches import AHEAD, Batch, Changes, Corpus, Files, Memory, Plan, batches
from ssast_lab.data.clips import (
    BEGINNING,
    COLUMNS,
    EXTENSIONS,
    MIDDLE,
    Clip,
    DataError,
    estimated,
    find_clips,
    generator,
    read_piece,
    rows_of,
    seconds_of,
    split,
    spread,
    statistics,
    summary,
    told,
)
from ssast_lab.data.packing import Window, fill
from ssast_lab.data.streams import Stream

__all__ = [
    "AHEAD", "BEGINNING", "COLUMNS", "EXTENSIONS", "MIDDLE", "Batch", "Changes", "Clip", "Corpus", "DataError", "Files", "Memory", "Plan", "Stream", "Window", "batches",
    "estimated", "fill", "find_clips", "generator", "read_piece", "rows_of", "seconds_of", "split", "spread", "statistics", "summary", "told",
]  # fmt: skip
