"""Sound to learn from.

streams.py   what is drawn at random, and the number that keeps it apart
errors.py    what is said of a corpus that cannot be used, and of what was passed over
folders.py   what is taken for a sound, and the walk through folders that finds them
lists.py     tables and JSON, read strictly
arrow.py     Parquet, and what Hugging Face's datasets saves
clips.py     unlabelled sound, and what is kept aside to be measured on
look.py      what lies in a folder of recordings, before anything is trained on it
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
    MIDDLE,
    Clip,
    estimated,
    find_clips,
    generator,
    read_piece,
    read_whole,
    seconds_of,
    split,
    split_in_time,
    spread,
    statistics,
    summary,
    told,
)
from ssast_lab.data.errors import DataError, Passed
from ssast_lab.data.folders import EXTENSIONS
from ssast_lab.data.packing import Window, fill
from ssast_lab.data.streams import Stream

__all__ = [
    "AHEAD", "BEGINNING", "EXTENSIONS", "MIDDLE", "Batch", "Changes", "Clip", "Corpus", "DataError", "Files", "Memory", "Passed", "Plan",
    "Stream", "Window", "batches", "estimated", "fill", "find_clips", "generator", "read_piece", "read_whole", "seconds_of", "split", "split_in_time", "spread", "statistics",
    "summary", "told",
]  # fmt: skip
