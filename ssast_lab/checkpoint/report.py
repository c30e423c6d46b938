"""What loading took of a file, what it left there, and what a pretraining model has that the file lacks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ssast_lab.checkpoint.tensors import skeleton
from ssast_lab.model import SSAST, Classifier, EncoderModel


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


NO_PRETEXT = "of the pretext task: without it, nothing can be hidden, drawn or recognised"


def report(
    layout: str,
    model: nn.Module,
    sources: Mapping[str, Sequence[str]],
    file: Mapping[str, Tensor],
    left: Mapping[str, str] | None = None,
    made_up: Mapping[str, str] | None = None,
) -> LoadReport:
    """``sources``: our name -> the names in the ``file`` of the tensors that it was made of; ``left`` and ``made_up``: a name
    in the file, or one of ours -> why."""
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
    )


def _lacking(model: nn.Module, names: Iterable[str]) -> Iterable[Weight]:
    """The heads of a pretraining model, where this is another one with the same encoder."""
    if isinstance(model, Classifier | EncoderModel):
        config, (bins, frames) = model.config, model.config.patch
        one_patch = replace(  # on which the heads do not depend, but overlapping patches would be refused
            config, labels=(), stride=config.patch, frames=frames, audio=replace(config.audio, mel_bins=bins)
        )
        whole = skeleton(SSAST, one_patch).state_dict()
        yield from (Weight(name, tuple(whole[name].shape), NO_PRETEXT) for name in whole if name not in {*names})
