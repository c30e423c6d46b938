"""Any model by its name or path: built-in, a folder of ours, a run, an official file, a folder of transformers, or random."""

import json
import os
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ssast_lab.checkpoint import hub, names, vit
from ssast_lab.checkpoint.audyn import LAYOUT as AUDYN
from ssast_lab.checkpoint.audyn import is_audyn, to_official_names
from ssast_lab.checkpoint.official import OFFICIAL_FEATURES, TABLE, read_encoder, read_official, settings_beside
from ssast_lab.checkpoint.own import CONFIG, WEIGHTS, Model, load_folder, read_description, replaced
from ssast_lab.checkpoint.own import check as check_folder
from ssast_lab.checkpoint.report import LoadReport, report
from ssast_lab.checkpoint.tensors import CheckpointError, read_pickle
from ssast_lab.config import ConfigError, model_config
from ssast_lab.model import SSAST

T = TypeVar("T")


def builtin_models() -> dict[str, Path]:
    """Name -> folder of the checkpoints that come with the package."""
    folder = Path(str(files("ssast_lab"))) / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG}"))}


def load(name_or_path: str | os.PathLike[str], **official: Any) -> Model:
    """A model in evaluation mode on the CPU, from a built-in name, a checkpoint folder, a training run's folder (its best
    checkpoint), a folder of Hugging Face's transformers (see :func:`ssast_lab.checkpoint.huggingface.from_huggingface`) or an official
    ``.pth`` file; with ``scratch:`` before it, one of the same shape with random weights (``scratch:tiny-patch`` names a
    preset, ``scratch@1:`` draws by the seed 1 rather than 0).

    Release files of Audyn and the encoders of AudioMAE are read too, and ``hf:OWNER/NAME`` is a model of the Hugging Face Hub,
    the only thing that is ever fetched (with the extra ``hub``).

    An official file does not say everything about itself; ``official`` may name its ``audio`` statistics, ``labels``,
    ``pooling``, and for a fine-tuned one the ``frames`` and ``stride`` (see :func:`from_official`). Wherever a model is named,
    ``FILE.pth?frames=512&stride=10x10`` says the same.
    """
    return load_with_report(name_or_path, **official)[0]


def load_with_report(name_or_path: str | os.PathLike[str], **official: Any) -> tuple[Model, LoadReport]:
    """:func:`load`, and what was taken of the file, what was left, and what is missing."""
    name_or_path, asked = _settings(name_or_path)
    official = asked | official
    random = re.fullmatch(r"scratch(?:@(\d{1,9}))?:(.+)", str(name_or_path))
    if random:
        model = _untrained(random[2], int(random[1] or 0))
        drawn = dict.fromkeys(model.state_dict(), "drawn at random")
        return model, report("no file's", model, {}, {}, made_up=drawn)
    return _reading(name_or_path, lambda path: _load(path, name_or_path, official))


def _load(path: Path, name_or_path: str | os.PathLike[str], official: dict[str, Any]) -> tuple[Model, LoadReport]:
    if not os.path.exists(path):  # unlike Path.exists, false for a name that is too long as well
        names = ", ".join(builtin_models()) or "none"
        raise CheckpointError(
            f"There is no model {str(name_or_path)!r}: it is neither a file or folder nor a built-in model ({names})."
        )
    if path.name in (WEIGHTS, CONFIG):
        path = path.parent
    if path.is_dir():
        if official:
            raise CheckpointError(
                f"{path} is a checkpoint folder, which describes itself: {', '.join(official)} cannot be given."
            )
        return load_folder(path)
    state = read_pickle(path)
    if is_audyn(state):
        weights, origin = to_official_names(state, str(path))
        return read_official(weights, str(path), **official, layout=AUDYN, origin=origin, file=state)
    if vit.is_vit(state):
        return _encoder_of_vit(state, str(path), official)
    return read_official(state, str(path), **settings_beside(path) | official)


def _encoder_of_vit(state: dict[str, Tensor], source: str, official: dict[str, Any]) -> tuple[Model, LoadReport]:
    if set(official) - {"audio"}:
        raise CheckpointError(f"{source} says its own length and stride: only audio can be given.")
    weights, left = vit.to_official_names(state, source)
    model, read = read_encoder(weights, source, official.get("audio"))
    taken = {weight.name: (names.theirs(weight.name, TABLE) or "").removeprefix("v.") for weight in read.taken}
    made_up = {"encoder.distillation_token": vit.NO_DISTILLATION}
    sources = {name: (theirs,) for name, theirs in taken.items()}
    return model, report(vit.LAYOUT, model, sources, state, left, made_up, OFFICIAL_FEATURES, vit.POSITIONS)


def _settings(name: str | os.PathLike[str]) -> tuple[str | os.PathLike[str], dict[str, Any]]:
    """A name or path without the settings after it, and these: ``tuned.pth?frames=512&stride=10x10``."""
    file, mark, text = str(name).rpartition("?")
    if not mark or os.path.exists(name):
        return name, {}
    settings: dict[str, Any] = {}
    for part in text.split("&"):
        key, _, value = part.partition("=")
        numbers = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", value)
        if key == "frames" and numbers and not numbers[2]:
            settings["frames"] = int(value)
        elif key == "stride" and numbers and numbers[2]:
            settings["stride"] = (int(numbers[1]), int(numbers[2]))
        elif key == "pooling" and value in ("mean", "cls"):
            settings["pooling"] = value
        else:
            raise CheckpointError(
                f"{part!r} after {file} is no setting of a model: there are frames=512, stride=10x10 (mel bins x frames) and "
                "pooling=mean or cls, joined by &."
            )
    return file, settings


def _untrained(like: str, seed: int) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if like not in builtin_models():
            try:
                return SSAST(model_config(like)).eval()
            except ConfigError:
                pass  # no preset: a checkpoint
        model: Any = load(like)
        torch.manual_seed(seed)
        return type(model)(model.config).eval()


def describe(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint folder or built-in model says about itself: its ``config.json``."""
    name_or_path = _settings(name_or_path)[0]
    return _reading(name_or_path, read_description)


def check(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """The same, of a folder that describes a model and has weights, which are not read: a :class:`CheckpointError` for others."""
    return _reading(name_or_path, check_folder)


def _reading(name_or_path: str | os.PathLike[str], read: Callable[[Path], T]) -> T:
    """Calls ``read`` on the checkpoint of that name. A run that is still training may delete it meanwhile, for a newer one:
    then the newer one is read."""
    while True:
        path = located(name_or_path)
        try:
            return read(path)
        except CheckpointError:
            if os.path.exists(path) or path == located(name_or_path):
                raise


def located(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder or file of that name: of a run its best checkpoint."""
    if str(name_or_path).startswith(hub.PREFIX):
        return hub.fetched(str(name_or_path))
    path = builtin_models().get(str(name_or_path), Path(name_or_path))
    old = replaced(path)
    if not os.path.exists(path) and os.path.isdir(old):
        return old
    if os.path.isdir(path / "checkpoints") or os.path.isfile(path / "metrics.jsonl"):
        path = _of_run(path)
    return path / "model" if os.path.isdir(path / "model") else path


def checkpoints_of(folder: Path) -> dict[str, Path]:
    """Name -> folder of the checkpoints of a training run, in order. Folders with other names are ignored."""
    paths = sorted((folder / "checkpoints").glob("step-*"))
    return {path.name: path for path in paths if re.fullmatch(r"step-\d{8,}", path.name)}


def _of_run(folder: Path) -> Path:
    """The best checkpoint of a training run's folder, or the last one where none is known to be the best."""
    try:
        best = f"step-{json.loads((folder / 'best.json').read_text(encoding='utf-8'))['step']:08d}"
    except (OSError, ValueError, KeyError, TypeError):
        best = ""
    # looked for after it was named: a run that is going on writes the checkpoint first, and then that it is the best
    checkpoints = checkpoints_of(folder)
    if not checkpoints:
        raise CheckpointError(
            f"The run in {folder} has written no checkpoint yet: go on with it (--run.resume) until it has."
        )
    return checkpoints.get(best, [*checkpoints.values()][-1])
