"""Sounds that a speech synthesis program of a package says: every text in every voice.

The program runs where its packages were unpacked, with the libraries of the packages that it depends on; nothing is
installed. Only the C library is the machine's own.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssast_lab.data.corpus.clips import decode
from ssast_lab.data.tasks.table import TaskError

OWN = ("libc6",)


def with_dependencies(name: str, package: Callable[[str], Path]) -> dict[str, Path]:
    """The .deb of a package and of all that it depends on; of alternatives the first. ``package`` gives the .deb of a name."""
    found: dict[str, Path] = {}
    left = [name]
    while left:
        name = left.pop()
        if name in found or name in OWN:
            continue
        found[name] = package(name)
        asked = subprocess.run(["dpkg-deb", "-f", found[name], "Depends"], capture_output=True, text=True).stdout
        left += [match[0] for one in asked.split(",") if (match := re.match(r"[a-z0-9][a-z0-9+.-]+", one.strip()))]
    return found


def install(debs: dict[str, Path], root: Path) -> None:
    for deb in debs.values():
        if subprocess.run(["dpkg-deb", "-x", deb, root], capture_output=True).returncode:
            raise TaskError(f"{deb.name} could not be unpacked by dpkg-deb; delete the cache folder and build again.")


def speech(speak: dict[str, Any], root: Path, work: Path) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """("usr/bin/program#voice text", what says it) for each voice and text."""
    libraries = ":".join(sorted({str(file.parent) for file in root.glob("**/lib/**/*.so*")}))
    for voice in speak["voices"]:
        for text in speak["texts"]:
            yield f"usr/bin/{speak['program']}#{voice} {text}", partial(_say, speak, voice, text, root, libraries, work)


def _say(speak: dict[str, Any], voice: str, text: str, root: Path, libraries: str, work: Path) -> np.ndarray:
    file = work / "said.wav"
    file.unlink(missing_ok=True)
    known = dict(voice=voice, text=text, file=file, library=next(iter(root.glob("usr/lib/*-linux-gnu*")), root))
    command = [root / "usr/bin" / speak["program"], *(argument.format(**known) for argument in speak["arguments"])]
    try:
        done = subprocess.run(
            command, env={**os.environ, "LD_LIBRARY_PATH": libraries}, capture_output=True, text=True,
            errors="replace", timeout=60,
        )  # fmt: skip
        said = done.stderr.strip() or "it wrote no sound"
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if not file.exists():
        raise TaskError(f"{speak['program']} did not say {text!r} with the voice {voice} ({said.splitlines()[-1]}).")
    return decode(file, "speech")
