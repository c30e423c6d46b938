"""How far a command is, for a terminal and for a pipe or a log; and what it met on its way."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

SOON = 2.0  # seconds after which a pipe or a log is told something for the first time
TOLD = 20  # files that could not be read, by name
EVERY = 60.0  # and after which it is told again


class Clock:
    """When a pipe or a log is to be told how far it is: soon, and then every minute. A terminal has a bar, and is told nothing."""

    def __init__(self) -> None:
        self.began = self.told = time.monotonic()
        self.silent = sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def strikes(self) -> bool:
        now = time.monotonic()
        due = now - self.told >= (EVERY if self.told > self.began else SOON)
        if due:
            self.told = now
        return due and not self.silent


@contextmanager
def progress(seconds: float) -> Iterator[Callable[[float], object]]:
    """A function that is told of the seconds of sound that are done, and shows them on stderr: as a bar on a terminal, otherwise as a
    line a minute."""
    from tqdm.auto import tqdm

    if sys.stderr.isatty():
        with tqdm(total=round(seconds), unit="s", unit_scale=True, desc="sound") as bar:
            yield bar.update
        return
    clock, done = Clock(), 0.0

    def heard(more: float) -> None:
        nonlocal done
        done += more
        if clock.strikes():
            left = max(seconds - done, 0) * clock.seconds / done if done else 0.0
            print(f"{done / 60:.1f} of about {max(seconds, done) / 60:.1f} minutes of sound, {duration(left)} left", file=sys.stderr,
                  flush=True)  # fmt: skip

    yield heard


def duration(seconds: float) -> str:
    """ "40 seconds", "12 minutes", "3.5 hours" or "2.1 days" """
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if size == 60 else 1}f} {name}"
    return f"{seconds:.0f} second{'s' * (round(seconds) != 1)}"


def tell(left_out: Mapping[str, str], noticed: Mapping[str, str]) -> None:
    """On stderr, which sounds could not be read (name -> why), and what should be known of others (name -> what)."""
    from ssast_lab.data import summary

    if left_out:
        print(
            f"{len(left_out)} could not be read and {'is' if len(left_out) == 1 else 'are'} left out:", file=sys.stderr
        )
    for said in [*left_out.values()][:TOLD]:
        print(f"  {said}", file=sys.stderr)
    if len(left_out) > TOLD:
        print(f"  and {len(left_out) - TOLD} more", file=sys.stderr)
    for line in summary(noticed):
        print(line, file=sys.stderr)
