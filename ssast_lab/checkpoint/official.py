"""The layout of the official code (YuanGongND/ssast), pretrained or fine-tuned."""

import re
from dataclasses import replace

from torch import Tensor

from ssast_lab.checkpoint.report import LoadReport, report
from ssast_lab.checkpoint.tensors import CheckpointError, fill, skeleton
from ssast_lab.config import SIZES, AudioConfig, ModelConfig, Pooling
from ssast_lab.model import SPECIAL, SSAST, Classifier

_OFFICIAL = [  # (pattern in the official layout, our name); the first that matches counts
    (r"v\.patch_embed\.proj\.(weight|bias)", r"encoder.patch_embedding.\1"),
    (r"v\.cls_token", "encoder.cls_token"),
    (r"v\.dist_token", "encoder.distillation_token"),
    (r"v\.pos_embed", "encoder.positions"),
    (r"v\.blocks\.(\d+)\.(norm[12])\.(weight|bias)", r"encoder.blocks.\1.\2.\3"),
    (r"v\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"encoder.blocks.\1.attention.qkv.\2"),
    (r"v\.blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"encoder.blocks.\1.attention.out.\2"),
    (r"v\.blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"encoder.blocks.\1.mlp.0.\2"),
    (r"v\.blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"encoder.blocks.\1.mlp.2.\2"),
    (r"v\.norm\.(weight|bias)", r"encoder.norm.\1"),
    (r"mask_embed", "mask_token"),
    (r"cpredlayer\.([02])\.(weight|bias)", r"contrastive_head.\1.\2"),
    (r"gpredlayer\.([02])\.(weight|bias)", r"reconstruction_head.\1.\2"),
    (r"mlp_head\.0\.(weight|bias)", r"norm.\1"),
    (r"mlp_head\.1\.(weight|bias)", r"linear.\1"),
]
_UNUSED = re.compile(r"v\.head(_dist)?\.(weight|bias)|p_input_[ft]dim")  # ImageNet heads that SSAST never trains; sizes


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

    A pretraining file tells its shape. A fine-tuned one does not tell its length and stride: they follow from the number of
    its positions as the official recipes set them (16x16 patches at a stride of 10, frames at 1), unless they are given here.
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
) -> tuple[SSAST | Classifier, LoadReport]:
    """:func:`from_official`, and what was taken of the file."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    names, unused = _renamed(state, source)
    weights = {ours: state[theirs] for ours, theirs in names.items()}
    width, depth, patch, count = _shape(weights, source)
    weights["encoder.patch_embedding.weight"] = weights["encoder.patch_embedding.weight"].flatten(1)
    fine_tuned = "linear.weight" in weights
    if fine_tuned:  # such a file may still hold what only pretraining needed
        pretext = [name for name in weights if not name.startswith(("encoder.", "norm.", "linear."))]
        unused |= {names[name]: "of the pretext task, left in a fine-tuned file" for name in pretext}
        weights = {name: value for name, value in weights.items() if name not in pretext}
    try:
        if fine_tuned:
            labels = labels or tuple(str(number) for number in range(len(weights["linear.weight"])))
        mel_bins = int(state["p_input_fdim"]) if "p_input_fdim" in state else 128
        if "p_input_tdim" in state and not fine_tuned:
            frames, stride = int(state["p_input_tdim"]), patch
        elif stride is None or frames is None:
            frames, stride = _official_layout(count, patch, mel_bins, frames, stride)
        config = ModelConfig(
            width=width,
            depth=depth,
            heads=_heads(width, depth),
            frames=frames,
            patch=patch,
            stride=stride,
            pooling=pooling,
            labels=labels or () if fine_tuned else (),
            audio=replace(audio or AudioConfig(), mel_bins=mel_bins),
        )
        kind: type[SSAST] | type[Classifier] = Classifier if fine_tuned else SSAST
        model: SSAST | Classifier = skeleton(kind, config)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{source} does not describe a model: {str(error).rstrip('.')}.") from None
    if config.grid.count != count:
        raise CheckpointError(
            f"{source} has positions for {count} patches, but {frames} frames at a stride of {stride} "
            f"make {config.grid.count}."
        )
    filled = fill(model, weights, source)
    taken = {name: (names[name],) for name in weights}
    return filled, report("the official code's", filled, taken, state, left=unused)


def _renamed(state: dict[str, Tensor], source: str) -> tuple[dict[str, str], dict[str, str]]:
    """Our name -> the file's; and what the file holds beyond it -> why it is not needed."""
    weights: dict[str, str] = {}
    unused: dict[str, str] = {}
    for name in state:
        ours = next((re.sub(pattern, new, name) for pattern, new in _OFFICIAL if re.fullmatch(pattern, name)), None)
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
        count = table.shape[1] - SPECIAL
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{source} is not in the official layout: it lacks its patch embedding, positions or layers ({error})."
        ) from None
    if channels != 1 or len(patch) != 2:
        raise CheckpointError(f"{source} has a patch embedding for {channels} channels; SSAST hears one.")
    return width, depth, (patch[0], patch[1]), count


def _heads(width: int, depth: int) -> int:
    """The file does not say; the published sizes have 64 values in each head."""
    known = (size["heads"] for size in SIZES.values() if (size["width"], size["depth"]) == (width, depth))
    return max(next(known, width // 64), 1)


def _official_layout(
    count: int, patch: tuple[int, int], mel_bins: int, frames: int | None, stride: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    """The length and stride behind a number of positions: the first of the official recipes' layouts that gives it."""
    if min(*patch, *(stride or patch)) < 1 or patch[0] > mel_bins:
        raise CheckpointError(
            f"Patches of {patch[0]}x{patch[1]} at a stride of {stride} do not fit {mel_bins} mel bins."
        )
    if stride is not None:
        strides = [stride]
    elif patch[0] == mel_bins:
        strides = [(patch[0], 1), patch]
    else:
        strides = [(10, 10), patch]
    for length in [frames] if frames else [1024, 512, 128, 100, 600, 1000, 998]:
        for step in strides:
            if length >= patch[1] and count == ((mel_bins - patch[0]) // step[0] + 1) * (
                (length - patch[1]) // step[1] + 1
            ):
                return length, step
    for step in reversed(strides):  # no recipe: the shortest length that gives so many positions
        columns, rest = divmod(count, (mel_bins - patch[0]) // step[0] + 1)
        if rest == 0 and columns:
            return (columns - 1) * step[1] + patch[1], step
    raise CheckpointError(f"{count} positions fit no stride of the official recipes: say the frames and the stride.")
