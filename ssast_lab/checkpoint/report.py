"""What loading took of a file, what it left there, and what a pretraining model has that the file lacks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ssast_lab import files
from ssast_lab.checkpoint.layouts import Layout
from ssast_lab.checkpoint.tensors import skeleton
from ssast_lab.model import SPECIAL, SSAST, Classifier, Encoder, EncoderModel


@dataclass(frozen=True)
class Weight:
    """A tensor of a model or of a file."""

    name: str
    shape: tuple[int, ...]
    note: str  # where it is from, or why it was left or is missing


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint became a model."""

    format: str  # in which layout it was written
    taken: tuple[Weight, ...]  # every weight of the model that was in the file; its note has the names there
    left: tuple[Weight, ...]  # what the file holds and the model has no place for
    missing: tuple[Weight, ...]  # what was made up, or what a pretraining model of this shape has beyond this model
    positions: str  # what was done to them
    features: str  # how sound becomes input, and who says so
    layouts: tuple[
        Layout, ...
    ]  # the grids that the positions fit, the one that was taken first; empty where the file says it
    fingerprint: (
        str  # SHA-256 of the weights as they were taken: equal weights have equal ones, whatever layout they were in
    )

    def lines(self) -> Iterator[str]:
        """The report in few lines, for people."""
        yield f"read in {self.format} layout: {len(self.taken)} weights taken, {len(self.left)} left, {len(self.missing)} missing"
        for part, weights in (("left", self.left), ("missing", self.missing)):
            for note, count in Counter(weight.note for weight in weights).items():
                first = next(weight.name for weight in weights if weight.note == note)
                yield f"{part}: {first}{f' and {count - 1} more' if count > 1 else ''}: {note}"
        if self.positions:
            yield f"positions: {self.positions}"
        if self.features:
            yield f"features: {self.features}"
        for number, layout in enumerate(self.layouts if len(self.layouts) > 1 else ()):
            yield f"{'would fit as well' if number else 'layout taken'}: {layout}"
        yield f"fingerprint of the weights: {self.fingerprint[:16]}"


NO_PRETEXT = "of the pretext task: without it, nothing can be hidden, drawn or recognised"


def report(
    layout: str,
    model: nn.Module,
    sources: Mapping[str, Sequence[str]],
    file: Mapping[str, Tensor],
    left: Mapping[str, str] | None = None,
    made_up: Mapping[str, str] | None = None,
    features: str = "",
    positions: str = "as they stand in the file",
    layouts: Sequence[Layout] = (),
) -> LoadReport:
    """``sources``: our name -> the names in the ``file`` of the tensors that it was made of; ``left`` and ``made_up``: a name
    in the file, or one of ours -> why; ``features``: who says how they are normalised; ``positions``: what was done to them."""
    weights, made_up = {name: tuple(value.shape) for name, value in model.state_dict().items()}, made_up or {}

    def origin(name: str) -> str:
        names = [one for one in sources[name] if one in file]
        kinds = ", ".join(sorted({str(file[one].dtype).removeprefix("torch.") for one in names}))
        return f"{' + '.join(names)} ({kinds})"

    return LoadReport(
        layout,
        tuple(Weight(name, weights[name], origin(name)) for name in weights if name not in made_up),
        tuple(Weight(name, tuple(file[name].shape), why) for name, why in (left or {}).items()),
        (*(Weight(name, weights[name], why) for name, why in made_up.items()), *_lacking(model, weights)),
        _positions(model, positions),
        _features(model, features),
        tuple(layouts),
        fingerprint(model),
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights, their names and shapes."""
    parts = []
    for name, value in sorted(model.state_dict().items()):
        parts += [f"{name} {tuple(value.shape)}".encode(), _bytes(value)]
    return files.sha256(*parts)


def _bytes(value: Tensor) -> memoryview:
    return value.detach().float().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _positions(model: nn.Module, done: str) -> str:
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        return ""
    grid = encoder.grid
    return f"{SPECIAL} + {grid.count} for {grid.rows} x {grid.columns} patches, {done}; none was cut or interpolated"


def _features(model: nn.Module, said_by: str) -> str:
    config = getattr(getattr(model, "config", None), "audio", None)
    if config is None:
        return ""
    return f"{config.mel_bins} mel bins, mean {config.mean:g}, deviation {config.std:g}: {said_by or 'what config.json says'}"


def _lacking(model: nn.Module, names: Iterable[str]) -> Iterable[Weight]:
    """The heads of a pretraining model, where this is another one with the same encoder."""
    if isinstance(model, Classifier | EncoderModel):
        config, (bins, frames) = model.config, model.config.patch
        one_patch = replace(  # on which the heads do not depend, but overlapping patches would be refused
            config, labels=(), stride=config.patch, frames=frames, audio=replace(config.audio, mel_bins=bins)
        )
        whole = skeleton(SSAST, one_patch).state_dict()
        yield from (Weight(name, tuple(whole[name].shape), NO_PRETEXT) for name in whole if name not in {*names})
