"""What is said of a corpus that cannot be used, and of what was passed over when one was looked for."""

import functools
import logging
import os
from collections.abc import Iterable

from ssast_lab.files import printable


class DataError(ValueError):
    """A corpus that cannot be used: the message says which, and what is wrong with it."""


class Passed:
    """What was passed over where sounds were looked for, counted by the reason; false where there is nothing.

    Its text is one line: ``3 hidden (such as ._a.wav), 1 packed (b.tar.xz: unpack it, or make it a .tar)``."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, str] = {}

    def add(self, reason: str, name: str | os.PathLike[str], advice: str = "", count: int = 1) -> None:
        """``advice`` is said of the first one."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.examples.setdefault(reason, printable(os.fspath(name)) + (f": {advice}" if advice else ""))

    def update(self, other: "Passed") -> None:
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.examples.setdefault(reason, other.examples[reason])

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return ", ".join(
            f"{count} {reason} ({'such as ' if count > 1 else ''}{self.examples[reason]})"
            for reason, count in self.counts.items()
        )

    def tell(self, sources: Iterable[str | os.PathLike[str]]) -> None:
        """Says it once in this process, by the logger ``ssast_lab``, which writes to stderr where nothing else was set up."""
        if self:
            tell(f"Passed over in {', '.join(printable(os.fspath(source)) for source in sources)}: {self}.")


@functools.cache
def tell(line: str) -> None:
    """Says a line once in this process, by the logger ``ssast_lab``."""
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, the one that prints
        logging.getLogger("ssast_lab").warning(line)
