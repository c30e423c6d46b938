"""Models in the folders of Hugging Face's transformers: its ``ASTModel`` and ``ASTForAudioClassification`` in our terms.

Official SSAST and AST weights are handed out in this form too. It holds the encoder and perhaps a classifier; pretext heads, other
patches than square ones and other pooling only in the folders that we write (:mod:`ssast_lab.checkpoint.to_huggingface`). The classifier of the published conversions of *pretrained* SSAST models is random: transformers has none
without a head; such a folder is worth its encoder alone. The weights have other names in transformers 4 than in
5. Axes: D width, L labels.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssast_lab.config import AudioConfig, ConfigError, ModelConfig, Pooling
from ssast_lab.model import SPECIAL, SSAST, Classifier, EncoderModel

MODEL_TYPE = "audio-spectrogram-transformer"
WRAPPED = "ssast"  # of what only the classes in modeling_ssast.py compute
PREFIX = "audio_spectrogram_transformer."  # of the encoder's weights where there is a classifier beside it
FILES = ("model.safetensors", "pytorch_model.bin")
FEATURES = "preprocessor_config.json"
OURS = 1e-6  # what our encoders add to the variance in a LayerNorm
HEAD = 1e-5  # and what the heads of our classifiers do
PRETEXT = ("mask_token", "contrastive_head.", "reconstruction_head.")  # under our own names
DEEPEST = 1000  # layers


class HuggingFaceError(ValueError):
    """A folder of transformers that is no model of ours: the message says what is wrong with it."""


class Translation(NamedTuple):
    """Of which class the model is, and its configuration and weights."""

    kind: type[EncoderModel] | type[Classifier] | type[SSAST]
    config: ModelConfig
    state: dict[str, Tensor]
    file: dict[str, Tensor]  # as they stand there
    sources: dict[str, list[str]]  # our name -> those in the file
    made_up: dict[str, str]  # our name -> why
    features: str  # who says how they are normalised


def from_huggingface(
    folder: Path, description: dict[str, Any], read: Callable[[Path], dict[str, Tensor]]
) -> Translation:
    """What transformers has saved in a folder, in one file or in shards: ``description`` is its ``config.json``, and
    ``read`` reads the tensors of a safetensors or ``.bin`` file.

    A classifier pools as transformers does, the mean of [CLS] and distillation, which SSAST never trains: to fine-tune, pool
    the mean of the patches. ``layer_norm_eps`` is kept, as with transformers' 1e-12 the logits of a small model may differ
    from those with our 1e-6 and 1e-5 by 0.01. Dropout is not: here nothing drops out. ``preprocessor_config.json``, where
    there is one, tells mean and deviation of the features, which are normalised as ours: (x - mean) / (2 std).

    :class:`HuggingFaceError` or :class:`ssast_lab.config.ConfigError` for what we cannot read.
    """
    where = folder / "config.json"
    _check(description, where)
    state = {name.removeprefix(PREFIX): value for name, value in _weights(folder, read).items()}
    wrapped = description["model_type"] == WRAPPED
    head = "pooled_classifier" if wrapped else "classifier"
    fine_tuned = any(name.startswith(f"{head}.") for name in state)
    kind: type[EncoderModel] | type[Classifier] | type[SSAST]
    kind = Classifier if fine_tuned else SSAST if "mask_token" in state else EncoderModel
    labels = _labels(description, state.get(f"{head}.dense.weight"), where) if fine_tuned else ()
    pooling: Pooling = description.get("pooling", "mean") if wrapped else "cls" if fine_tuned else "mean"
    patch = _patch(description, wrapped, where)
    config = ModelConfig(
        width=_whole(description, "hidden_size", 768, where),
        depth=_whole(description, "num_hidden_layers", 12, where),
        heads=_whole(description, "num_attention_heads", 12, where),
        frames=_whole(description, "max_length", 1024, where),
        patch=patch,
        stride=(
            _whole(description, "frequency_stride", 10, where),
            _whole(description, "time_stride", 10, where),
        ),
        pooling=pooling,
        labels=labels,
        audio=_features(folder, _whole(description, "num_mel_bins", 128, where), description.get("max_length", 1024)),
        norm_eps=_eps(description, fine_tuned, where),
    )
    if config.depth > DEEPEST:
        raise HuggingFaceError(f"{where}: {config.depth} layers are more than a model of this family has.")
    inner = description.get("intermediate_size", 3072)
    if inner != 4 * config.width:
        raise HuggingFaceError(
            f"{where}: intermediate_size is {inner}, where four times the hidden_size, {4 * config.width}, is expected."
        )
    biased = description.get("qkv_bias", True) is not False
    names = names_of(config.depth, any(name.startswith("layers.") for name in state), fine_tuned, head)
    pretext = {name: [name] for name in state if kind is SSAST and name.startswith(PRETEXT)}
    translated = _translated(state, names | pretext, config, biased, folder)
    zeros = {} if biased else {name: "zeros, as qkv_bias is false" for name in names if name.endswith("qkv.bias")}
    heard = (
        f"what {FEATURES} says"
        if (folder / FEATURES).is_file()
        else f"the usual ones, as there is no {FEATURES} in the folder"
    )
    return Translation(kind, config, translated, state, names | pretext, zeros, heard)


def _eps(description: dict[str, Any], fine_tuned: bool, where: Path) -> float | None:
    """What is added to the variance in every LayerNorm; None where it is what ours add."""
    eps = _number(description, "layer_norm_eps", 1e-12, where)
    if not 0 < eps < 1:
        raise HuggingFaceError(f"{where}: layer_norm_eps is {eps:g}, where a small positive number is expected.")
    head = _number(description, "head_norm_eps", eps, where)
    if eps == OURS and (not fine_tuned or head == HEAD):
        return None
    if head != eps:
        raise HuggingFaceError(
            f"{where}: head_norm_eps is {head:g}, and beside {eps:g} in the encoder only {eps:g} is known."
        )
    return eps


def _patch(description: dict[str, Any], wrapped: bool, where: Path) -> tuple[int, int]:
    shape = description.get("patch_shape") if wrapped else None
    if shape is None:
        side = _side(description.get("patch_size", 16), where)
        return side, side
    if not isinstance(shape, list) or len(shape) != 2:
        raise HuggingFaceError(f"{where}: patch_shape is {str(shape)[:100]}, where two numbers are expected.")
    high, wide = (_whole({"patch_shape": side}, "patch_shape", 16, where) for side in shape)
    return high, wide


def _check(description: dict[str, Any], where: Path) -> None:
    kind = description.get("model_type")
    if kind not in (MODEL_TYPE, WRAPPED):
        raise HuggingFaceError(
            f"{where} describes a model of the type {str(kind)[:100]!r}: of transformers' models only those of the type "
            f"{MODEL_TYPE!r} can be read."
        )
    act = description.get("hidden_act", "gelu")
    if act != "gelu":
        raise HuggingFaceError(f"{where}: hidden_act is {str(act)[:100]!r}, and only 'gelu' is supported.")


def _number(values: dict[str, Any], name: str, default: float, where: Path) -> float:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise HuggingFaceError(f"{where}: {name} is {str(value)[:100]!r}, where a number is expected.")
    return value


def _whole(values: dict[str, Any], name: str, default: int, where: Path) -> int:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1 << 20:
        raise HuggingFaceError(f"{where}: {name} is {str(value)[:100]!r}, where a whole number from 1 is expected.")
    return value


def _side(size: Any, where: Path) -> int:
    """Of a square patch. Newer versions of transformers allow two numbers in the file, but their model takes none but one."""
    sides = size if isinstance(size, list) and len(size) == 2 else [size, size]
    if sides[0] != sides[1]:
        raise HuggingFaceError(
            f"{where}: patch_size is {size}, but transformers has square patches alone; a frame model comes as an official "
            ".pth file."
        )
    return _whole({"patch_size": sides[0]}, "patch_size", 16, where)


def _labels(description: dict[str, Any], weight: Tensor | None, where: Path) -> tuple[str, ...]:
    """Names in the order of the logits; a file that names none has the default names of transformers."""
    if weight is None or weight.ndim != 2:
        raise HuggingFaceError(
            f"The classifier that belongs to {where} lacks classifier.dense.weight, a matrix (L, D)."
        )
    names = description.get("id2label") or {str(number): f"LABEL_{number}" for number in range(len(weight))}
    expected = [str(number) for number in range(len(weight))]
    if not isinstance(names, dict) or set(names) != set(expected):
        raise HuggingFaceError(f"{where}: id2label does not name the {len(weight)} labels of the classifier from 0 on.")
    return tuple(str(names[number]) for number in expected)


def _features(folder: Path, mel_bins: int, frames: int) -> AudioConfig:
    where = folder / FEATURES
    if not where.is_file():
        return AudioConfig(mel_bins=mel_bins)
    values = _json(where)
    for name, expected in (("num_mel_bins", mel_bins), ("max_length", frames)):
        if values.get(name, expected) != expected:
            raise HuggingFaceError(
                f"{where}: {name} is {str(values[name])[:100]}, where the model needs {expected} to hear as it was trained."
            )
    usual = AudioConfig()
    plain = values.get("do_normalize", True) is False  # (x - 0) / (2 * 0.5)
    try:
        return AudioConfig(
            mel_bins,
            0.0 if plain else _number(values, "mean", usual.mean, where),
            0.5 if plain else _number(values, "std", usual.std, where),
            values.get("sampling_rate", usual.sample_rate),
            _number(values, "low_freq", usual.low, where),
            _number(values, "high_freq", math.nan, where) if "high_freq" in values else None,
        )
    except ConfigError as error:
        raise HuggingFaceError(f"{where}: {str(error).replace('sample_rate', 'sampling_rate')}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HuggingFaceError(f"{path} cannot be read: {str(error).rstrip('.')}.") from None
    if not isinstance(values, dict):
        raise HuggingFaceError(f"{path} is no table of names and values.")
    return values


def _weights(folder: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    for name in FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read(folder / name)
        if index.is_file():
            return _sharded(index, read)
    raise HuggingFaceError(f"{folder} has no weights: there is neither {' nor '.join(FILES)} in it.")


def _sharded(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    places = _json(index).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(file, str) and file.endswith(index.name.removesuffix(".index.json").rpartition(".")[2])
        and Path(file).name == file and "\0" not in file for file in places.values()
    ):  # fmt: skip
        raise HuggingFaceError(f"{index} does not say which file of its folder holds which weight.")
    state: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        state |= read(index.parent / file)
    return state


# Ours -> in transformers 4 and 5, within a layer; several stand below one another in ours.
_LAYER = {
    "norm1": (["layernorm_before"], ["layernorm_before"]),
    "attention.qkv": (
        [f"attention.attention.{part}" for part in ("query", "key", "value")],
        [f"attention.{part}_proj" for part in "qkv"],
    ),
    "attention.out": (["attention.output.dense"], ["attention.o_proj"]),
    "norm2": (["layernorm_after"], ["layernorm_after"]),
    "mlp.0": (["intermediate.dense"], ["mlp.fc1"]),
    "mlp.2": (["output.dense"], ["mlp.fc2"]),
}


def names_of(depth: int, newer: bool, fine_tuned: bool, head: str = "classifier") -> dict[str, list[str]]:
    """Our name -> the names in transformers of what stands below one another in it."""
    modules = {"encoder.patch_embedding": ["embeddings.patch_embeddings.projection"], "encoder.norm": ["layernorm"]}
    for number in range(depth):
        layer = f"layers.{number}" if newer else f"encoder.layer.{number}"
        for ours, theirs in _LAYER.items():
            modules[f"encoder.blocks.{number}.{ours}"] = [f"{layer}.{name}" for name in theirs[newer]]
    if fine_tuned:
        modules |= {"norm": [f"{head}.layernorm"], "linear": [f"{head}.dense"]}
    names = {
        f"{ours}.{part}": [f"{name}.{part}" for name in theirs]
        for ours, theirs in modules.items()
        for part in ("weight", "bias")
    }
    tokens = {"cls_token": "cls_token", "distillation_token": "distillation_token", "positions": "position_embeddings"}
    return names | {f"encoder.{ours}": [f"embeddings.{theirs}"] for ours, theirs in tokens.items()}


def _translated(
    state: dict[str, Tensor], names: dict[str, list[str]], config: ModelConfig, biased: bool, folder: Path
) -> dict[str, Tensor]:
    width, (high, wide) = config.width, config.patch
    if not biased:
        state = {
            name: torch.zeros(width) for ours in names if ours.endswith("qkv.bias") for name in names[ours]
        } | state
    wanted = {name for theirs in names.values() for name in theirs}
    missing, foreign = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or foreign:
        what = f"lack {missing[0]}" if missing else f"hold {foreign[0]}, which is not part of such a model"
        raise HuggingFaceError(
            f"The weights in {folder} {what} (and {len(missing) + len(foreign) - 1} other differences)."
        )
    shapes = {
        "embeddings.patch_embeddings.projection.weight": (width, 1, high, wide),
        "embeddings.position_embeddings": (1, SPECIAL + config.grid.count, width),
    }
    for ours, theirs in names.items():
        if ".qkv." in ours:
            shapes |= {name: (width, width) if ours.endswith("weight") else (width,) for name in theirs}
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise HuggingFaceError(
                f"{folder}: {name} has the shape {tuple(state[name].shape)} where its config.json makes it {shape}."
            )
    ours_to_value = {
        ours: state[theirs[0]] if len(theirs) == 1 else torch.cat([state[name] for name in theirs])
        for ours, theirs in names.items()
    }
    kernel = ours_to_value["encoder.patch_embedding.weight"]
    return ours_to_value | {"encoder.patch_embedding.weight": kernel.flatten(1)}
