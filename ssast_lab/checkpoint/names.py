"""Weights under other names: a table has pairs of names, theirs and ours, in which a star stands for any one part."""

import re
from collections.abc import Sequence
from functools import lru_cache

Table = Sequence[tuple[str, str]]  # (theirs, ours), both with as many stars


@lru_cache(maxsize=256)
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\*", r"(\w+)"))


def _renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str | None:
    for before, after in pairs:
        found = _pattern(before).fullmatch(name)
        if found:
            return after.replace("*", "{}").format(*found.groups())
    return None


def ours(name: str, table: Table) -> str | None:
    """Our name of one of theirs; None for what has none."""
    return _renamed(name, table)


def theirs(name: str, table: Table) -> str | None:
    """Their name of one of ours; None for what has none."""
    return _renamed(name, [(mine, other) for other, mine in table])
