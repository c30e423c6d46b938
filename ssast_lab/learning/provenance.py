"""What a run says of itself: the machine, the versions and the command of each start, and what training has said."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssast_lab import __version__


def environment(start: int) -> dict[str, Any]:
    """Of a run that goes on from the step ``start``: when, with which versions, on what, and by which command."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "from_step": start,
        "ssast_lab": __version__,
        "python": platform.python_version(),
        "commit": _commit(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "arguments": sys.argv[1:],
    }


def _commit() -> str | None:
    """The git commit of the running source, where it is in a checkout; with a plus where files were changed since."""
    here = Path(__file__)
    commands = (
        ["ls-files", "--error-unmatch", here.name],  # fails in an environment within the checkout of something else
        ["describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
    )
    try:
        for words in commands:
            git = ["git", "-C", str(here.parent), *words]
            output = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return output


def learned(lines: Sequence[Mapping[str, Any]], batch: int) -> list[dict[str, float]]:
    """What training itself said, as means over stretches that each end at 1.4 times the clips of the one before."""
    names = [name for name in ("loss", "nce", "mse", "accuracy") if all(name in line for line in lines)]
    ends = sorted({min(round(2 ** (place / 2)), len(lines)) for place in range(2 * len(lines).bit_length() + 1)})
    stretches = [lines[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return [
        {"clips": stretch[-1]["step"] * batch}
        | {name: float(np.mean([line[name] for line in stretch])) for name in names}
        for stretch in stretches
        if stretch
    ]
