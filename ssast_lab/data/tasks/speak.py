"""Sounds made by a speech synthesis program of a package: every text in every voice.

The program runs in the folder that its packages were unpacked into, with the libraries of the packages that it depends on.
Nothing is installed. Only the C library is that of the machine.
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

NOT_FETCHED = ("libc6",)


def with_dependencies(name: str, package: Callable[[str], Path]) -> dict[str, Path]:
    """Name -> .deb of a package and of all packages that it depends on; of alternatives the first. ``package`` gives the .deb
    of a name."""
    debs: dict[str, Path] = {}
    names = [name]
    while names:
        name = names.pop()
        if name in debs or name in NOT_FETCHED:
            continue
        debs[name] = package(name)
        depends = subprocess.run(["dpkg-deb", "-f", debs[name], "Depends"], capture_output=True, text=True).stdout
        names += [match[0] for one in depends.split(",") if (match := re.match(r"[a-z0-9][a-z0-9+.-]+", one.strip()))]
    return debs


def install(debs: dict[str, Path], root: Path) -> None:
    """Unpacks packages into a folder."""
    for deb in debs.values():
        if subprocess.run(["dpkg-deb", "-x", deb, root], capture_output=True).returncode:
            raise TaskError(f"{deb.name} could not be unpacked by dpkg-deb; delete the cache folder and build again.")


def speech(speak: dict[str, Any], root: Path, work: Path) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """("usr/bin/program#voice text", the function that speaks it) for each voice and text."""
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
        output = done.stderr.strip() or "it wrote no sound"
    except (OSError, subprocess.TimeoutExpired) as error:
        output = str(error)
    if not file.exists():
        raise TaskError(f"{speak['program']} did not say {text!r} with the voice {voice} ({output.splitlines()[-1]}).")
    return decode(file, "speech")
