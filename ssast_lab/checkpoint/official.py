"""The layout of the official code (YuanGongND/ssast), pretrained or fine-tuned: read and written."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssast_lab.checkpoint import names
from ssast_lab.checkpoint.layouts import Layout, LayoutWarning, layouts, said, strides_of
from ssast_lab.checkpoint.report import LoadReport, report
from ssast_lab.checkpoint.tensors import CheckpointError, fill, skeleton
from ssast_lab.config import SIZES, AudioConfig, ModelConfig, Pooling, to_dict
from ssast_lab.model import SPECIAL, SSAST, Classifier, EncoderModel

TABLE: names.Table = [
    ("v.patch_embed.proj.*", "encoder.patch_embedding.*"),
    ("v.cls_token", "encoder.cls_token"),
    ("v.dist_token", "encoder.distillation_token"),
    ("v.pos_embed", "encoder.positions"),
    ("v.blocks.*.norm1.*", "encoder.blocks.*.norm1.*"),
    ("v.blocks.*.norm2.*", "encoder.blocks.*.norm2.*"),
    ("v.blocks.*.attn.qkv.*", "encoder.blocks.*.attention.qkv.*"),
    ("v.blocks.*.attn.proj.*", "encoder.blocks.*.attention.out.*"),
    ("v.blocks.*.mlp.fc1.*", "encoder.blocks.*.mlp.0.*"),
    ("v.blocks.*.mlp.fc2.*", "encoder.blocks.*.mlp.2.*"),
    ("v.norm.*", "encoder.norm.*"),
    ("mask_embed", "mask_token"),
    ("cpredlayer.*.*", "contrastive_head.*.*"),
    ("gpredlayer.*.*", "reconstruction_head.*.*"),
    ("mlp_head.0.*", "norm.*"),
    ("mlp_head.1.*", "linear.*"),
]
_UNUSED = re.compile(r"v\.head(_dist)?\.(weight|bias)|p_input_[ft]dim")  # ImageNet heads that SSAST never trains; sizes
OFFICIAL_FEATURES = "those of AudioSet and LibriSpeech, the official ones: the file says none"
SETTINGS = "settings.json"  # beside a file that :func:`to_official` made: what the layout does not say
IMAGENET = 1000  # labels of the heads that the official code's encoders have, and never train
NO_DISTILLATION = "{} has a distillation token, which this model lacks: export it to onnx or torch."
_SAID = ("audio", "labels", "pooling", "frames", "stride")


def from_official(
    state: dict[str, Tensor],
    source: str = "the official checkpoint",
    *,
    audio: AudioConfig | None = None,
    labels: tuple[str, ...] | None = None,
    pooling: Pooling = "mean",
    frames: int | None = None,
    stride: tuple[int, int] | None = None,
) -> SSAST | Classifier:
    """A model from the official layout, pretrained or fine-tuned, with or without the ``module.`` prefix.

    A pretraining file tells its shape. A fine-tuned one does not tell its length and stride: where its positions fit several,
    the likeliest is taken and a :class:`LayoutWarning` says which others there are, unless they are given here.
    Labels have no names in the official layout; they are numbered unless ``labels`` names them.
    """
    return read_official(state, source, audio, labels, pooling, frames, stride)[0]


def read_official(
    state: dict[str, Tensor],
    source: str,
    audio: AudioConfig | None = None,
    labels: tuple[str, ...] | None = None,
    pooling: Pooling = "mean",
    frames: int | None = None,
    stride: tuple[int, int] | None = None,
    layout: str = "the official code's",
    origin: Mapping[str, str] | None = None,
    file: Mapping[str, Tensor] | None = None,
) -> tuple[SSAST | Classifier, LoadReport]:
    """:func:`from_official`, and what was taken of the file. Where that has another layout, ``origin`` has the names in the
    ``file`` of the official ones."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    found, unused = _renamed(state, source)
    weights = {ours: state[theirs] for ours, theirs in found.items()}
    width, depth, patch, count = _shape(weights, source)
    weights["encoder.patch_embedding.weight"] = weights["encoder.patch_embedding.weight"].flatten(1)
    fine_tuned = "linear.weight" in weights
    if fine_tuned:  # such a file may still hold what only pretraining needed
        pretext = [name for name in weights if not name.startswith(("encoder.", "norm.", "linear."))]
        unused |= {found[name]: "of the pretext task, left in a fine-tuned file" for name in pretext}
        weights = {name: value for name, value in weights.items() if name not in pretext}
    candidates: list[Layout] = []
    try:
        if fine_tuned:
            labels = labels or tuple(str(number) for number in range(len(weights["linear.weight"])))
        mel_bins = int(state["p_input_fdim"]) if "p_input_fdim" in state else 128
        if "p_input_tdim" in state and not fine_tuned:
            frames, stride = int(state["p_input_tdim"]), patch
        elif stride is None or frames is None:
            candidates = _candidates(weights["encoder.positions"], patch, mel_bins, fine_tuned, frames, stride)
            frames, stride = candidates[0].frames, candidates[0].stride
        config = ModelConfig(
            width=width,
            depth=depth,
            heads=heads_of(width, depth),
            frames=frames,
            patch=patch,
            stride=stride,
            pooling=pooling,
            labels=labels or () if fine_tuned else (),
            audio=replace(audio or AudioConfig(), mel_bins=mel_bins),
        )
        kind: type[SSAST] | type[Classifier] = Classifier if fine_tuned else SSAST
        model: SSAST | Classifier = skeleton(kind, config)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{source} does not describe a model: {str(error).rstrip('.')}.") from None
    if config.grid.count != count:
        raise CheckpointError(
            f"{source} has positions for {count} patches, but {frames} frames at a stride of {stride} "
            f"make {config.grid.count}."
        )
    filled = fill(model, weights, source)
    if said(candidates):
        warnings.warn(LayoutWarning(f"{source} {said(candidates)}."), stacklevel=4)
    heard = (
        "those that were given" if audio else "those of AudioSet and LibriSpeech, the official ones: the file says none"
    )
    origin = {name: name for name in state} if origin is None else origin
    taken = {name: (origin[found[name]],) for name in weights}
    unused = {origin[name]: why for name, why in unused.items() if name in origin}
    return filled, report(layout, filled, taken, file or state, left=unused, features=heard, layouts=candidates)


def read_encoder(
    state: dict[str, Tensor], source: str, audio: AudioConfig | None = None
) -> tuple[EncoderModel, LoadReport]:
    """An encoder without a distillation token and without heads, in the official layout."""
    found, unused = _renamed(state, source)
    weights = {ours: state[theirs] for ours, theirs in found.items()}
    width, depth, patch, count = _shape(weights, source)
    weights["encoder.patch_embedding.weight"] = weights["encoder.patch_embedding.weight"].flatten(1)
    try:
        audio = audio or AudioConfig()
        rows = audio.mel_bins // max(patch[0], 1)
        config = ModelConfig(
            width=width, depth=depth, heads=heads_of(width, depth), frames=count // max(rows, 1) * patch[1], patch=patch,
            stride=patch, audio=audio, distillation=False,
        )  # fmt: skip
        model = skeleton(EncoderModel, config)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{source} does not describe a model: {str(error).rstrip('.')}.") from None
    filled = fill(model, weights, source)
    return filled, report("the official code's", filled, {name: (found[name],) for name in weights}, state, left=unused)


def _renamed(state: dict[str, Tensor], source: str) -> tuple[dict[str, str], dict[str, str]]:
    """Our name -> the file's; and what the file holds beyond it -> why it is not needed."""
    weights: dict[str, str] = {}
    unused: dict[str, str] = {}
    for name in state:
        ours = names.ours(name, TABLE)
        if ours is not None:
            weights[ours] = name
        elif _UNUSED.fullmatch(name):
            unused[name] = (
                "a head of ImageNet that SSAST never trains" if name.startswith("v.") else "a size, which was read"
            )
        else:
            raise CheckpointError(f"{source} holds {name}, which no official SSAST model has.")
    return weights, unused


def _shape(weights: dict[str, Tensor], source: str) -> tuple[int, int, tuple[int, int], int]:
    """(width, depth, (mel bins, frames) of a patch, number of patches)"""
    try:
        kernel, table = weights["encoder.patch_embedding.weight"], weights["encoder.positions"]
        depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.blocks."))
        width, channels, *patch = kernel.shape
        _, count, _ = table.shape
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{source} is not in the official layout: it lacks its patch embedding, positions or layers ({error})."
        ) from None
    if channels != 1 or len(patch) != 2:
        raise CheckpointError(f"{source} has a patch embedding for {channels} channels; SSAST hears one.")
    return width, depth, (patch[0], patch[1]), count - SPECIAL


def heads_of(width: int, depth: int) -> int:
    """The file does not say; the published sizes have 64 values in each head."""
    known = (size["heads"] for size in SIZES.values() if (size["width"], size["depth"]) == (width, depth))
    return max(next(known, width // 64), 1)


def _candidates(
    positions: Tensor,
    patch: tuple[int, int],
    mel_bins: int,
    fine_tuned: bool,
    frames: int | None,
    stride: tuple[int, int] | None,
) -> list[Layout]:
    if min(*patch, *(stride or patch)) < 1 or patch[0] > mel_bins:
        raise CheckpointError(
            f"Patches of {patch[0]}x{patch[1]} at a stride of {stride} do not fit {mel_bins} mel bins."
        )
    strides = [stride] if stride else strides_of(patch, mel_bins, fine_tuned)
    found = layouts(positions[0, SPECIAL:], patch, mel_bins, strides, frames)
    if not found:
        given = f" and {frames} frames" if frames else ""
        at = f"a stride of {stride[0]}x{stride[1]}" if stride else "any stride of the official recipes"
        raise CheckpointError(
            f"{positions.shape[1] - SPECIAL} positions do not fit {at}{given}: say the frames and the stride."
        )
    return found


def settings_beside(path: Path) -> dict[str, Any]:
    """What a file that :func:`to_official` made has beside it, as the arguments of :func:`from_official`."""
    place = path.parent / SETTINGS
    if not place.is_file():
        return {}
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
        if values.pop("file", None) != path.name:
            return {}
        settings = {name: values[name] for name in _SAID if name in values}
        for name in ("labels", "stride"):
            if name in settings:
                settings[name] = tuple(settings[name])
        if "audio" in settings:
            settings["audio"] = AudioConfig(**settings["audio"])
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{place} cannot be read: {str(error).rstrip('.')}.") from None
    return settings


def to_official(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A pretraining model or a classifier as the official code saves it (``module.`` before each name), and what its layout does
    not say: the labels, the length and stride of a classifier, the normalisation of the features. :class:`CheckpointError` for
    what the layout cannot hold."""
    if not isinstance(model, SSAST | Classifier):
        raise CheckpointError(
            f"The official layout holds pretraining models and classifiers, not {type(model).__name__}: "
            "export an encoder to transformers or onnx."
        )
    config = model.config
    if not config.distillation:
        raise CheckpointError(NO_DISTILLATION.format("The official layout"))
    if config.norm_eps is not None:
        raise CheckpointError(
            f"The official code adds 1e-6 to the variance in its LayerNorms (1e-5 in a classifier's head), and this model needs "
            f"{config.norm_eps:g}: its numbers would differ."
        )
    if config.heads != heads_of(config.width, config.depth):
        raise CheckpointError(
            f"The official layout does not say the number of heads: {config.depth} layers of {config.width} would be read as "
            f"{heads_of(config.width, config.depth)} heads, and this model has {config.heads}."
        )
    state = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().clone()
        if name == "encoder.patch_embedding.weight":
            value = value.unflatten(1, (1, *config.patch))
        state[f"module.{names.theirs(name, TABLE)}"] = value
    for head in ("head", "head_dist"):  # which scripts that load with strict=True miss
        state[f"module.v.{head}.weight"] = torch.zeros(IMAGENET, config.width)
        state[f"module.v.{head}.bias"] = torch.zeros(IMAGENET)
    heard = {
        name: value for name, value in to_dict(config.audio).items() if name != "mel_bins"
    }  # which the state tells
    settings: dict[str, Any] = {"audio": heard}
    if isinstance(model, SSAST):
        sizes = {"module.p_input_fdim": config.audio.mel_bins, "module.p_input_tdim": config.frames}
        state = {name: torch.tensor(size) for name, size in sizes.items()} | state
    else:
        if config.audio.mel_bins != 128:
            state["module.p_input_fdim"] = torch.tensor(config.audio.mel_bins)
        settings |= dict(frames=config.frames, stride=config.stride, labels=config.labels, pooling=config.pooling)
    return state, settings
