"""One table out of many upstreams and many tasks, with what each figure is worth, and what beats scratch beyond doubt.

    records.py  what was said of the test clips, as figures with intervals
    lengths.py  by the length of the sounds
    pages.py    pages and figures
    rows.py     what each model says of the test clips, made once and kept
    table.py    the whole comparison

upstreams x tasks x seeds --rows--> what was said of the test clips (JSON, kept) --records--> figures with intervals
    --pages--> table.csv, README.md, comparison.json and a figure
"""

from ssast_lab.measuring.compare.lengths import by_length
from ssast_lab.measuring.compare.pages import draw, table_of, told, write, write_text
from ssast_lab.measuring.compare.records import (
    ABOVE,
    BELOW,
    PROBED,
    TUNED,
    UNTOLD,
    Averaged,
    CompareError,
    Comparison,
    Difference,
    Entry,
    averaged,
    told_apart,
)
from ssast_lab.measuring.compare.table import compare

__all__ = [
    "ABOVE", "BELOW", "PROBED", "TUNED", "UNTOLD", "Averaged", "CompareError", "Comparison", "Difference", "Entry",
    "averaged", "by_length", "compare", "draw", "table_of", "told", "told_apart", "write", "write_text",
]  # fmt: skip
