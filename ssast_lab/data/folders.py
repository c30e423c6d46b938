"""What is taken for a sound by its name, and the one walk through folders that finds them."""

import os
from collections.abc import Iterator
from pathlib import PurePath

from ssast_lab.data.errors import Passed

# Whatever audio/blocks.py decodes. Raw G.722 and GSM say nothing of themselves and are not among them.
_NAMES = """
wav wave rf64 w64 flac aif aiff aifc au snd caf sph nist voc paf svx 8svx avr ircam sf tta wv
ogg oga ogv opus spx mp2 mp3 mpga aac adts ac3 eac3 amr awb wma asf wmv ra rm
m4a m4b m4r m4v mp4 mov 3gp 3g2 f4a f4v webm weba mka mkv avi flv mpg mpeg vob ts mts m2ts
"""
EXTENSIONS = frozenset(f".{name}" for name in _NAMES.split())
SHARDS = frozenset([".tar", ".parquet", ".arrow"])  # files that hold many sounds
PACKED = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst", ".zip", ".7z", ".rar")
UNPACK = "unpack it, or make it a .tar"

NO_SOUND, HIDDEN, IS_PACKED = "with no sound's name", "hidden", "packed"
CLOSED, LOOP, NO_FILE = "not to be opened", "leading back to where it lies", "neither file nor folder"


def suffix_of(name: str) -> str:
    return PurePath(name).suffix.lower()


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder on the way to it, begins with a dot: the companions ``._a.wav`` that other systems leave
    beside every sound are none."""
    return any(part.startswith(".") and part.strip(".") for part in name.replace("\\", "/").split("/"))


def is_sound(name: str) -> bool:
    """By a name with its folders, as within an archive."""
    return suffix_of(name) in EXTENSIONS and not is_hidden(name)


def pass_over(name: str | os.PathLike[str], passed: Passed, inner: str = "") -> None:
    """Counts a file that is no sound; ``inner`` is its name with its folders within an archive."""
    name = os.fspath(name)
    if is_hidden(inner):
        passed.add(HIDDEN, name)
    elif name.lower().endswith(PACKED):
        passed.add(IS_PACKED, name, UNPACK)
    else:
        passed.add(NO_SOUND, name)


def walk(folder: str | os.PathLike[str], passed: Passed) -> Iterator[str]:
    """The files in a folder at any depth, in a fixed order: those of a folder by name, then those of its folders.

    Links are followed, but not to a folder that they lie in. Hidden files and folders, folders that cannot be opened, broken
    links, pipes and devices are passed over."""
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(os.fspath(folder), ())]
    while waiting:
        place, above = waiting.pop()
        try:
            status = os.stat(place)
            with os.scandir(place) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            passed.add(CLOSED, place, error.strerror or type(error).__name__)
            continue
        here = (status.st_dev, status.st_ino)
        if here in above:
            passed.add(LOOP, place)
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                passed.add(HIDDEN, entry.path)
            elif _is_folder(entry):
                folders.append((entry.path, (*above, here)))
            elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():
                yield entry.path
            else:
                passed.add(NO_FILE, entry.path)
        waiting += reversed(folders)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """A link is looked up by its path, which gives no error where it leads nowhere."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
