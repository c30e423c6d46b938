"""The command about sounds: ``data``, which looks at them and makes corpora and tasks."""

import os
import shlex
import sys
from pathlib import Path

HIGHER = """\
      That is for models of 16 kHz, which hear nothing above 8 kHz. Where what lies above counts, as with birds and insects, add
      --features birds-48k (150 Hz to 15 kHz), with bats --features bats-96k (8 to 48 kHz)."""


def data(arguments: list[str]) -> None:
    """``ssast-lab data look|statistics|corpus|tasks``"""
    from typing import Annotated

    import tyro

    from ssast_lab.commands.arguments import Sounds
    from ssast_lab.data import tasks as labelled

    def look(sources: Sounds) -> None:
        """What lies in folders of recordings: how much, of what length and kind, and what is wrong with which of it.

        All of it is read once, and nothing is changed.

        Args:
            sources: folders, sound files, manifests or tar shards.
        """
        from ssast_lab.commands.progress import progress
        from ssast_lab.data import Passed, find_clips, seconds_of
        from ssast_lab.data.look import look as find

        with progress(seconds_of(find_clips(sources, Passed()))) as heard:
            looked = find(sources, heard)
        print("\n".join(looked.lines()))
        if looked.seconds:
            print(f"Next: ssast-lab data statistics {shlex.join(sources)}")
            above = sum(count for rate, count in looked.rates.items() if rate >= 32_000)
            if 2 * above >= looked.rates.total():
                print(HIGHER)

    def statistics(sources: Sounds, limit: int = 10_000, features: str = "") -> None:
        """Mean and standard deviation of the log-mel features of a corpus, which normalise it.

        Args:
            sources: folders, sound files, manifests or tar shards.
            limit: at most so many clips are heard.
            features: telephone-8k, birds-48k or bats-96k; by default those of 16 kHz.
        """
        from ssast_lab.commands.progress import tell
        from ssast_lab.config import audio_config
        from ssast_lab.data import find_clips
        from ssast_lab.data import statistics as measure

        unreadable: dict[str, str] = {}
        noticed: dict[str, str] = {}
        found, bar = find_clips(sources), sys.stderr.isatty()
        mean, std, clips = measure(
            found, limit, progress=bar, unreadable=unreadable, noticed=noticed, config=audio_config(features)
        )
        tell(unreadable, noticed)
        print(f"mean {mean:.7f}, standard deviation {std:.7f} over {clips} clips")
        hidden = 400 * audio_config(features).mel_bins // 128  # of half as many bins there are half as many patches
        recipe = f"quick-nano-patch-{hidden}{'-' * bool(features)}{features}"
        print(f"Next: ssast-lab pretrain {recipe} --data.train {shlex.join(sources)} --model.audio.mean={mean:.4f} "
              f"--model.audio.std={std:.4f}")  # fmt: skip

    def corpus(out: Path, size: str = "large", workers: int = os.cpu_count() or 1, cache: Path | None = None) -> None:
        """Fetch, unpack, decode and cut a corpus of free speech, music and effects from Debian packages.

        Args:
            out: the folder that the shards, the manifest and the card are written into.
            size: "large" (41 hours from 4.8 GB of packages), "small" (10 hours from 0.5 GB), or "evaluation" (only the two sets to
                measure on, from 0.8 GB).
            workers: processes that share the packages; the corpus is the same, however many.
            cache: a folder that keeps what was made of each package, for the next build.
        """
        from ssast_lab.data.corpus import build

        build(out, size=size, workers=workers, cache=cache)
        print(f"Written: {out}")
        if size != "evaluation":
            print(f"Next: ssast-lab pretrain modern-tiny-patch-400 --data.train {shlex.quote(str(out / 'train'))} --data.held-out "
                  f"{shlex.quote(str(out / 'heldout'))}")  # fmt: skip

    def tasks(
        out: Path,
        names: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all)")] = (),
        cache: Path | None = None,
    ) -> None:
        """Build small labelled tasks of real sound from Debian packages, no voice, kit or game on both sides.

        Args:
            out: the folder that each task's folder is written into.
            names: the tasks to build.
            cache: a folder that keeps the packages that were fetched.
        """
        labelled.build(out, names or None, cache)
        made = [str(out / name) for name in names or labelled.names()]
        print(f"Written: {', '.join(made)}")
        print(f"Next: ssast-lab probe tiny-patch {shlex.quote(made[0])}")

    tasks.__doc__ = (tasks.__doc__ or "").replace(
        "the tasks to build.", f"the tasks to build, of {', '.join(labelled.names())}."
    )
    tyro.extras.subcommand_cli_from_dict(
        {"look": look, "statistics": statistics, "corpus": corpus, "tasks": tasks},
        args=arguments,
        prog="ssast-lab data",
    )
