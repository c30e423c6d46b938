"""The command about sounds: ``data``, which makes corpora and tasks and looks at them."""

import os
import sys
from pathlib import Path


def data(arguments: list[str]) -> None:
    """``ssast-lab data corpus|tasks|statistics``"""
    import tyro

    def corpus(out: Path, size: str = "large", workers: int = os.cpu_count() or 1, cache: Path | None = None) -> None:
        """Fetch, unpack, decode and cut a corpus of free speech, music and effects from Debian packages.

        Args:
            out: the folder that the shards, the manifest and the card are written into.
            size: "large" (41 hours from 4 GB of packages), "small" (13 hours from 1 GB), or "evaluation" (only the two
                sets to measure on, from 0.7 GB).
            workers: processes that share the packages; the corpus is the same, however many.
            cache: a folder that keeps what was made of each package, for the next build.
        """
        from ssast_lab.data.corpus import build

        build(out, size=size, workers=workers, cache=cache)

    def tasks(out: Path, names: tuple[str, ...] = (), cache: Path | None = None) -> None:
        """Build small labelled tasks of real sound from Debian packages, no voice, kit or game on both sides.

        Args:
            out: the folder that each task's folder is written into.
            names: the tasks to build; all of them, if none is named.
            cache: a folder that keeps the packages that were fetched.
        """
        from ssast_lab.data.tasks import build

        build(out, names or None, cache)

    def statistics(sources: tyro.conf.Positional[tuple[str, ...]], limit: int = 10_000) -> None:
        """Mean and standard deviation of the log-mel features of a corpus: --model.audio.mean and --model.audio.std.

        Args:
            sources: folders, sound files, manifests or tar shards.
            limit: at most so many clips are heard.
        """
        from ssast_lab.data import find_clips
        from ssast_lab.data import statistics as measure

        mean, std, clips = measure(find_clips(sources), limit, progress=sys.stderr.isatty())
        print(f"mean {mean:.7f}, standard deviation {std:.7f} over {clips} clips")

    tyro.extras.subcommand_cli_from_dict(
        {"corpus": corpus, "tasks": tasks, "statistics": statistics}, args=arguments, prog="ssast-lab data"
    )
