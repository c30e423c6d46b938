"""What can be chosen on the page: models and sounds."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ssast_lab import audio, checkpoint
from ssast_lab.config import ModelConfig, from_dict
from ssast_lab.model import SSAST

LABEL, NOTE = 80, 2000  # letters of what a checkpoint says of itself
LONGEST_SECONDS = 600  # that are decoded of a sound: 38 MB for each visitor at 16 kHz


@dataclass(frozen=True)
class Model:
    """A pretraining model that can be chosen on the page."""

    path: Path
    kind: str  # "patch" or "frame"
    label: str
    note: str  # what its maker says of it
    public: bool = True  # for every visitor to choose
    rate: int = audio.SAMPLE_RATE  # Hz, of what it hears


@dataclass(frozen=True, eq=False)
class Sound:
    """A decoded sound and what is said of it."""

    title: str
    about: str
    waveform: Tensor  # (S,)
    rate: int = audio.SAMPLE_RATE  # Hz, of the waveform
    found: int = 0  # Hz, of the file; 0: no more than that
    builtin: str | None = None  # its name, where it is built in
    file: str | None = None  # its name, where it is a visitor's
    notices: tuple[str, ...] = ()  # what should be known of it: damaged places, say
    _at: dict[int, tuple[Tensor, tuple[str, ...]]] = field(default_factory=dict, repr=False)

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.rate

    def at(self, rate: int) -> Tensor:
        """(S,) at a model's rate."""
        return self._resampled(rate)[0]

    def notices_at(self, rate: int) -> tuple[str, ...]:
        """What should be known of it at a model's rate: that nearly all of it lies above what is heard there, say."""
        return self._resampled(rate)[1]

    def _resampled(self, rate: int) -> tuple[Tensor, tuple[str, ...]]:
        if rate == self.rate:
            return self.waveform, ()
        if rate not in self._at:
            notices: list[audio.AudioWarning] = []
            waveform = audio.load_waveform(self.waveform, rate=self.rate, to_rate=rate, notices=notices)
            self._at[rate] = waveform, tuple(notice.about(self.title) for notice in notices)
        return self._at[rate]

    def lost(self, rate: int) -> bool:
        """Whether a model of this rate would hear more in the file than is left in the waveform."""
        return self.rate < min(rate, self.found)


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
            models[name] = Model(
                path, kind, label, (str(about.get("note", "")) or learned(about))[:NOTE], rate=shape.audio.sample_rate
            )
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
    return Sound(
        entry["title"], f"{entry['author']}, {entry['licence']}", audio.load_waveform(entry["path"]), builtin=name
    )


def own_sound(path: str, title: str | None = None, rate: int = audio.SAMPLE_RATE) -> Sound:
    """A visitor's file, or at most its first ten minutes, at a rate at which all models can hear it; an error names the file as the
    visitor does."""
    name = title or Path(path).name
    try:
        waveform, report = audio.load_with_report(path, duration=LONGEST_SECONDS, to_rate=rate)
    except audio.AudioError as error:
        raise audio.AudioError(error.about(name)) from None
    whole = len(waveform) < LONGEST_SECONDS * rate
    about = "your sound" if whole else f"your sound, the first {LONGEST_SECONDS // 60} minutes of it"
    said = tuple(notice.about(name) for notice in report.notices)
    return Sound(name, about, waveform, rate, report.sample_rate, file=None if title else name, notices=said)


def window_seconds(config: ModelConfig) -> float:
    """How much sound a model sees at once."""
    return config.audio.seconds_of(config.frames)
