"""Linear heads that are kept beside a model: what its frozen embeddings say about a sound.

A head is one file, ``heads/NAME.safetensors`` in the model's folder: a logistic regression on the mean over the patches of one
layer's tokens, with its label names and what it reached on sounds that it was not fitted to.

Axes: D width, L labels.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ssast_lab import files
from ssast_lab.checkpoint.by_name import describe, located
from ssast_lab.checkpoint.tensors import CheckpointError

FORMAT = "ssast-lab head 1"
FOLDER = "heads"


@dataclass(frozen=True, eq=False)
class Head:
    """A logistic regression on embeddings."""

    name: str  # of the task that it answers
    labels: tuple[str, ...]  # (L,)
    layer: int  # from 0: the mean over the patches of its tokens is the embedding
    weight: Tensor  # (L, D)
    bias: Tensor  # (L,)
    about: Mapping[str, Any] = field(default_factory=dict)  # JSON: what it reached, and on what

    def __call__(self, embedding: Tensor) -> Tensor:
        """(..., D) -> (..., L) probabilities of the labels."""
        return (embedding @ self.weight.T + self.bias).softmax(-1)


def save_head(head: Head, folder: str | os.PathLike[str], model: str | os.PathLike[str]) -> Path:
    """Writes ``NAME.safetensors`` into a folder; ``model`` is the name or path of the model that it was fitted to."""
    said = {"name": head.name, "labels": head.labels, "layer": head.layer, "about": dict(head.about)}
    said["model"] = describe(model)["sha256"]
    tensors = {"weight": head.weight.float().contiguous(), "bias": head.bias.float().contiguous()}
    path = Path(folder) / f"{head.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, to_safetensors(tensors, metadata={"format": FORMAT, "head": files.to_json(said)}))
    return path


def heads(name_or_path: str | os.PathLike[str]) -> dict[str, Head]:
    """Name -> head, of those that lie in the folder of a model (a built-in name, or a path). Raises :class:`CheckpointError` for
    a file that is no head, or one that was fitted to other weights."""
    folder = located(name_or_path) / FOLDER
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        return {}
    weights = describe(name_or_path)["sha256"]
    return {path.stem: _read(path, weights) for path in paths}


def _read(path: Path, weights: str) -> Head:
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} is no head: it does not say {FORMAT!r}.")
        said = json.loads(metadata["head"])
        labels, weight, bias = tuple(said["labels"]), tensors["weight"], tensors["bias"]
        if not all(isinstance(label, str) for label in labels) or weight.ndim != 2 or bias.shape != (len(labels),):
            raise ValueError("labels and weights do not fit each other")
        head = Head(path.stem, labels, int(said["layer"]), weight.float(), bias.float(), dict(said["about"]))
        fitted_to = said["model"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as a head: {str(error).rstrip('.')}.") from None
    if fitted_to != weights or len(weight) != len(labels) or bool(torch.isnan(weight).any()):
        raise CheckpointError(
            f"{path} was fitted to other weights than these: fit it again with ssast-lab probe --heads."
        )
    return head
