"""Many upstreams on many tasks in one table, with intervals, and with marks where a difference cannot be chance.

    records.py  what upstreams reached on tasks, with intervals
    lengths.py  differences by the length of the sounds
    pages.py    the comparison as files: tables, page, figure
    rows.py     the scores of each upstream on each task, computed once and kept
    table.py    the whole comparison

upstreams x tasks x seeds --rows--> scores of the test clips (JSON, kept) --records--> figures with intervals
    --pages--> table.csv, README.md, comparison.json and a figure
"""

from ssast_lab.measuring.compare.lengths import by_length
from ssast_lab.measuring.compare.pages import csv_row, csv_table, draw, write, write_text
from ssast_lab.measuring.compare.records import (
    ABOVE,
    BELOW,
    PROBED,
    TUNED,
    UNDECIDED,
    Averaged,
    CompareError,
    Comparison,
    PairedDifference,
    TaskResult,
    averaged,
    paired_difference,
)
from ssast_lab.measuring.compare.table import compare, earlier

__all__ = [
    "ABOVE", "BELOW", "PROBED", "TUNED", "UNDECIDED", "Averaged", "CompareError", "Comparison", "PairedDifference",
    "TaskResult", "averaged", "by_length", "compare", "csv_row", "csv_table", "draw", "earlier", "paired_difference", "write",
    "write_text",
]  # fmt: skip
