"""Which clips a run was started with, and whether they are the same when it goes on: ``clips.json`` in its folder.

Of every clip it has the name, the bytes and the date, and of some a checksum of its beginning, middle and end. Where the run
asks for that, of every clip a checksum of all that is in it.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from ssast_lab.data import Clip, spread
from ssast_lab.files import printable

FILE = "clips.json"
SUMMED = 500  # clips of a set of which a checksum is kept; each takes three reads
PART = 4096  # bytes of each of these reads


class Verdict(NamedTuple):
    """What has become of a run's clips; in sentences, "" where there is nothing to say."""

    changed: str
    unknown: str  # of another date, where nothing tells whether their content is another
    mended: tuple[str, ...]  # clips that could not be read before


def record(sets: Mapping[str, Sequence[Clip]], contents: bool, answers: str = "") -> dict[str, Any]:
    """What is kept of these clips; ``answers`` is a checksum of what is to be learned of them."""
    kept = {name: _record(clips, contents) for name, clips in sets.items()}
    return {"sets": kept, "answers": answers}


def _record(clips: Sequence[Clip], contents: bool) -> dict[str, Any]:
    facts = [_facts(clip) for clip in clips]
    numbers = range(len(clips)) if contents else spread(len(clips), SUMMED)
    return {
        "names": [clip.name for clip in clips],
        "bytes": [size for size, _ in facts],
        "dates": [date for _, date in facts],
        "contents": contents,
        "sums": {str(number): _sum(clips[number], contents) for number in numbers},
    }


def compare(
    before: Mapping[str, Any], sets: Mapping[str, Sequence[Clip]], answers: str = "", unreadable: Sequence[str] = ()
) -> Verdict:
    """Whether these are the clips of :func:`record`, in this order, under the same names or in another place. Those that were
    ``unreadable`` may have been mended."""
    if before.get("answers", "") != answers:
        return Verdict("The labels of its clips have changed.", "", ())
    changed: list[str] = []
    unknown: list[str] = []
    mended: list[str] = []
    for name, old in before["sets"].items():
        clips = sets.get(name, ())
        if len(clips) != len(old["names"]):
            return Verdict(f"Its {name} set had {len(old['names'])} clips and has {len(clips)}.", "", ())
        for number, clip in enumerate(clips):
            was = old["names"][number]
            size, date = _facts(clip)
            dated = clip.name == was and date == old["dates"][number]
            told = old["sums"].get(str(number)) if old["contents"] or not dated else None
            same = size == old["bytes"][number] and (clip.name == was or _last(clip.name) == _last(was))
            if same and (told is None or told == _sum(clip, old["contents"])):
                if clip.name == was and not dated and told is None:
                    unknown.append(was)
            elif was in unreadable:
                mended.append(was)
            else:
                changed.append(was)
    return Verdict(
        _sentence(changed, "are no longer what they were when it was started"),
        _sentence(unknown, "have another date than when the run was started, and the same size: whether they are the same "
                  "sounds was not recorded, which --run.contents does"),
        tuple(mended),
    )  # fmt: skip


def _sentence(names: Sequence[str], what: str) -> str:
    return f"{len(names)} of its clips, such as {printable(names[0])}, {what}." if names else ""


def _last(name: str) -> str:
    return PurePath(name).name


def _facts(clip: Clip) -> tuple[int, int]:
    """(bytes, date in ns); (-1, 0) of one that is not there."""
    try:
        status = os.stat(clip.path)
    except OSError:
        return -1, 0
    return clip.span[1] if clip.span else status.st_size, status.st_mtime_ns


def _sum(clip: Clip, contents: bool) -> str:
    try:
        size = _facts(clip)[0]
        parts = [clip.read()] if contents else [clip.read(place, PART) for place in (0, size // 2, max(0, size - PART))]
    except OSError:
        return ""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:24]
