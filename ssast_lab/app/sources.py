"""What can be chosen on the page: models and sounds."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ssast_lab import audio, checkpoint
from ssast_lab.config import ModelConfig, from_dict
from ssast_lab.model import SSAST

LABEL, NOTE = 80, 2000  # letters of what a checkpoint says of itself
LONGEST_SECONDS = 600  # that are decoded of a sound: 38 MB for each visitor


@dataclass(frozen=True)
class Model:
    """A pretraining model that can be chosen on the page."""

    path: Path
    kind: str  # "patch" or "frame"
    label: str
    note: str  # what its maker says of it
    public: bool = True  # for every visitor to choose


@dataclass(frozen=True)
class Sound:
    """A decoded sound and what is said of it."""

    title: str
    about: str
    waveform: Tensor  # (S,) at 16 kHz
    builtin: str | None = None  # its name, where it is built in
    file: str | None = None  # its name, where it is a visitor's
    notices: tuple[str, ...] = ()  # what should be known of it: damaged places, say

    @property
    def seconds(self) -> float:
        return len(self.waveform) / audio.SAMPLE_RATE


def find_models(folders: Sequence[Path] = ()) -> dict[str, Model]:
    """Name -> model of every pretraining checkpoint that is built in or lies in one of the folders, patch models first; what cannot
    be used is left out with a sentence."""
    paths = checkpoint.builtin_models() | {
        path.resolve().name: path for folder in folders for path in checkpoints_in(folder)
    }
    models = {}
    for name, path in paths.items():
        try:
            description = checkpoint.check(path)
        except checkpoint.CheckpointError as error:
            print(f"Left out: {error}", flush=True)
            continue
        if (description["format"], description["kind"]) == (checkpoint.FORMAT, "pretext"):
            about, shape = description["about"], from_dict(ModelConfig, description["model"])
            kind = "frame" if shape.grid.rows == 1 else "patch"
            label = f"{str(about.get('title', name))[:LABEL]}{' (stop-gap)' if about.get('stop_gap') else ''}"
            models[name] = Model(path, kind, label, (str(about.get("note", "")) or learned(about))[:NOTE])
        else:
            print(
                f"{path.name} is no pretraining model: it stands in the tab Models, and a classifier is asked in Patch or frame.",
                flush=True,
            )
    return dict(sorted(models.items(), key=lambda item: item[1].kind, reverse=True))


def learned(about: Mapping[str, Any]) -> str:
    """What a model without a note says of its training, as far as it does."""
    said, (steps, clips, found) = [], (about.get(name) for name in ("steps", "clips", "held_out"))
    if isinstance(steps, int) and isinstance(clips, int):
        said.append(f"Trained for {steps:,} steps on {clips:,} clips.")
    if isinstance(found, dict) and all(isinstance(found.get(name), float) for name in ("mse", "accuracy")):
        said.append(
            f"On clips that were held out: MSE {found['mse']:.3f}, {found['accuracy']:.1%} of the hidden patches recognised."
        )
    return " ".join(said)


def checkpoints_in(folder: Path) -> list[Path]:
    """The folder itself and those in it, as far as they have a description, of whatever kind."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        print(f"Left out: {folder} cannot be looked into ({error.strerror}).", flush=True)
        return []
    return [path for path in (folder, *inside) if os.path.lexists(path / checkpoint.CONFIG)]


@lru_cache(maxsize=4)
def load_model(path: Path) -> SSAST:
    return checkpoint.load(path)  # type: ignore[return-value]


def builtin_sound(name: str) -> Sound:
    entry = audio.builtin_sounds()[name]
    return Sound(entry["title"], f"{entry['author']}, {entry['licence']}", audio.load_waveform(entry["path"]), name)


def own_sound(path: str, title: str | None = None) -> Sound:
    """A visitor's file, or at most its first ten minutes; an error names the file as the visitor does."""
    name, notices = title or Path(path).name, list[audio.AudioWarning]()
    try:
        waveform = audio.load_waveform(path, duration=LONGEST_SECONDS, notices=notices)
    except audio.AudioError as error:
        raise audio.AudioError(error.about(name)) from None
    whole = len(waveform) < LONGEST_SECONDS * audio.SAMPLE_RATE
    about = "your sound" if whole else f"your sound, the first {LONGEST_SECONDS // 60} minutes of it"
    said = tuple(notice.about(name) for notice in notices)
    return Sound(name, about, waveform, file=None if title else name, notices=said)


def window_seconds(config: ModelConfig) -> float:
    """How much sound a model sees at once."""
    return audio.samples_of(config.frames) / audio.SAMPLE_RATE
