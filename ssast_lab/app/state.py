"""What the page keeps of a visitor, the parts of the page whose values change, and what all visitors share."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssast_lab.analysis import Excerpt, Reconstruction
from ssast_lab.app.maps import SoundMap
from ssast_lab.app.private import Private
from ssast_lab.app.shelf import Shelf
from ssast_lab.app.sources import Model, Sound, load_model
from ssast_lab.app.trainings import Trainings
from ssast_lab.config import AudioConfig
from ssast_lab.model import SSAST

if TYPE_CHECKING:
    import gradio as gr


def told(event: "gr.EventData", name: str) -> Any:
    """What a script of the page sent along with its event under a name; None where it sent nothing, as programs do."""
    data = event._data
    return data.get(name) if isinstance(data, dict) else None


@dataclass(frozen=True, eq=False)
class Seen:
    """What the stage shows: one per picture, so that what is kept of it (by ``lru_cache``, say) is one visitor's and goes with it."""

    key: str  # the picture's, which nobody else can guess
    model: Model
    record: Reconstruction

    @property
    def network(self) -> SSAST:
        return load_model(self.model.path)

    @property
    def config(self) -> AudioConfig:
        return self.network.config.audio

    @property
    def excerpt(self) -> Excerpt:
        return Excerpt(self.record.start, torch.from_numpy(self.record.original), self.record.grid)

    @property
    def mask(self) -> Tensor:
        """(N,) bool, True = hidden"""
        return torch.from_numpy(self.record.mask)


@dataclass(frozen=True, eq=False)
class Ceiling:
    """The original log-mel made audible, which is the same under every mask."""

    stretch: int
    waveform: Tensor  # (S,)


MAPS = 8  # that are kept at once: one of 6000 windows of a base model takes up 110 MB


@dataclass(frozen=True, eq=False)
class Common:
    """What all visitors share. What is one visitor's stands in it under a name that nobody else can guess."""

    models: dict[str, Model]  # that can be chosen, by name
    shelf: Shelf = field(default_factory=Shelf)
    trainings: Trainings = field(default_factory=Trainings)
    maps: Private[SoundMap] = field(default_factory=lambda: Private(MAPS))

    def close(self) -> None:
        """When the server ends."""
        self.trainings.close()


@dataclass(frozen=True)
class Wish:
    """What a view has the stage show."""

    model: str | None = None  # the name of one
    sound: Sound | None = None
    start: float = 0.0  # seconds into that sound


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of the page whose values change."""

    sound: "gr.State"
    excerpt: "gr.State"
    share: "gr.State"  # of the patches that are hidden
    painted: "gr.State"  # (rows, columns) bool: the mask that was painted, or None for that of the controls
    seen: "gr.State"
    own: "gr.State"  # names of models that this visitor took in from a view
    ceiling: "gr.State"
    builtin: "gr.Dropdown"
    upload: "gr.File"
    microphone: "gr.Audio"
    status: "gr.HTML"
    window: "gr.Slider"
    model: "gr.Radio"
    note: "gr.HTML"
    hidden: "gr.Slider"
    blocks: "gr.Dropdown"
    seed: "gr.Number"
    another: "gr.Button"
    caption: "gr.HTML"
    stage: "gr.HTML"
    sounds: "gr.HTML"
    code: "gr.HTML"
    result: "gr.HTML"

    def of(self, *names: str) -> list[Any]:
        return [getattr(self, name) for name in names]
