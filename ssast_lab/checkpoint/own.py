"""Our own checkpoints: a folder with ``model.safetensors`` and a ``config.json`` that says what the weights are."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors

from ssast_lab.checkpoint.huggingface import HuggingFaceError, from_huggingface
from ssast_lab.checkpoint.report import LoadReport, report
from ssast_lab.checkpoint.tensors import CheckpointError, fill, read_tensors, skeleton
from ssast_lab.config import ModelConfig, from_dict, to_dict
from ssast_lab.files import to_json
from ssast_lab.model import SSAST, Classifier, EncoderModel
from ssast_lab.predictive import APC, APCConfig, Wav2Vec, Wav2VecConfig

FORMAT = "ssast-lab checkpoint 1"
GRAPH = "ssast-lab graph 1"  # of a folder with an ONNX file or the like
WEIGHTS, CONFIG = "model.safetensors", "config.json"
LONGEST = 1 << 20  # bytes of a description
Model = SSAST | Classifier | EncoderModel | APC | Wav2Vec
KINDS: dict[str, tuple[type[Model], type]] = {  # kind -> its class, and that of its configuration
    "pretext": (SSAST, ModelConfig),
    "classifier": (Classifier, ModelConfig),
    "encoder": (EncoderModel, ModelConfig),
    "apc": (APC, APCConfig),
    "wav2vec": (Wav2Vec, Wav2VecConfig),
}


def replaced(path: Path) -> Path:
    """Where :func:`save` keeps the checkpoint that it replaces, and where it stays if just then the process dies."""
    return path.parent / f".{path.name}.old"


def save(model: Model, path: str | os.PathLike[str], about: dict[str, Any] | None = None, half: bool = False) -> Path:
    """Writes a checkpoint folder, aside first and renamed into place when it is whole.

    ``about`` (JSON) goes into ``config.json``; ``half`` stores float16, which halves the file.
    """
    path = Path(path)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        state = {name: value.half() for name, value in state.items()}
    weights = to_safetensors(state, metadata={"format": "pt"})
    kind = next(name for name, (cls, _) in KINDS.items() if isinstance(model, cls))
    description = {
        "format": FORMAT,
        "kind": kind,
        "model": to_dict(model.config),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "about": about or {},
    }
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        (aside / WEIGHTS).write_bytes(weights)
        (aside / CONFIG).write_text(to_json(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if path.is_dir():  # a folder cannot be renamed over another one that has files in it
            shutil.rmtree(replaced(path), ignore_errors=True)
            path.rename(replaced(path))
        aside.rename(path)
        shutil.rmtree(replaced(path), ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path


def read_description(path: Path) -> dict[str, Any]:
    try:
        if (path / CONFIG).stat().st_size > LONGEST:
            raise CheckpointError(f"{path / CONFIG} is longer than any description of a model.")
        description = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is no checkpoint: it has no {CONFIG}.") from None
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{path / CONFIG} cannot be read: {reason}.") from None
    if isinstance(description, dict) and "model_type" in description and "format" not in description:
        about = {"from": "a folder of Hugging Face's transformers"}
        return {"format": "transformers", "kind": description["model_type"], "model": description, "about": about}
    if isinstance(description, dict) and description.get("format") == GRAPH:
        raise CheckpointError(
            f"{path} is a graph for onnxruntime or torch.export, of which no model can be made again: its README.md says how it is run."
        )
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no SSAST Lab checkpoint: its {CONFIG} does not say {FORMAT!r}.")
    for name, cls in (("kind", str), ("model", dict), ("sha256", str), ("about", dict)):
        if not isinstance(description.get(name), cls):
            raise CheckpointError(f"{path / CONFIG} does not describe a model: {name!r} is missing or unknown.")
    return description


def check(path: Path) -> dict[str, Any]:
    """What a folder says of itself, if that describes a model and there are weights beside it, which are not read."""
    description = read_description(path)
    if description["format"] == FORMAT:
        with _describing(path):
            _outline(description)
        if not (path / WEIGHTS).is_file():
            raise CheckpointError(f"{path} has no weights: there is no file {WEIGHTS} in it.")
    return description


def load_folder(path: Path) -> tuple[Model, LoadReport]:
    description = read_description(path)
    with _describing(path):
        if description["format"] != FORMAT:
            found = from_huggingface(path, description["model"], read_tensors)
            foreign = fill(skeleton(found.kind, found.config), found.state, str(path))
            made_up = found.made_up
            return foreign, report(
                "Hugging Face transformers'", foreign, found.sources, found.file, None, made_up, found.features
            )
        model, promised = _outline(description), description["sha256"]
    state = read_tensors(path / WEIGHTS, promised)
    model = fill(model, state, str(path))
    return model, report("SSAST Lab's", model, {name: (name,) for name in state}, state)


def _outline(description: dict[str, Any]) -> Model:
    """The model without its weights."""
    cls, about_it = KINDS[description["kind"]]
    return skeleton(cls, from_dict(about_it, description["model"]))


@contextmanager
def _describing(path: Path) -> Iterator[None]:
    """Whatever goes wrong is the description's fault."""
    try:
        yield
    except (CheckpointError, HuggingFaceError) as error:
        raise CheckpointError(str(error)) from None
    except KeyError as error:
        raise CheckpointError(f"{path / CONFIG} does not describe a model: {error} is missing or unknown.") from None
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path / CONFIG} does not describe a model: {str(error).rstrip('.')}.") from None
