"""Where a server keeps what its visitors send: a folder of its own, which goes with it or, if it was killed, at the next start."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # no POSIX system: what a killed server leaves is its owner's to remove
    fcntl = None  # type: ignore[assignment]

PREFIX = "ssast-lab-"
LOCK = "in-use"  # a file that is locked for as long as the folder's server lives: the system unlocks it when that is killed


@contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder that nobody else may read, removed at the end; OSError where there is no room for one."""
    parent = Path(tempfile.gettempdir())
    if fcntl is not None:
        sweep(parent)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):  # swept by another server before there was a lock in it
            lock = (folder / LOCK).open("x")
            if locked(lock) and (folder / LOCK).exists():
                break
            lock.close()
    try:
        yield folder
    finally:
        lock.close()
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Removes the folders of this user whose servers no longer live."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # swept by another server just now
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
                continue
            if not (folder / LOCK).exists():
                folder.rmdir()  # which fails if there is something in it: that is not ours to remove
                continue
            with (folder / LOCK).open() as lock:
                if locked(lock):
                    shutil.rmtree(folder, ignore_errors=True)


def locked(file: IO[str]) -> bool:
    """Whether the lock is ours now."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
