"""Encoders of AudioMAE (facebookresearch/AudioMAE), in the official layout.

Its Vision Transformer has a [CLS] token but no distillation token; it sees the spectrogram with time downwards, so that its patches
run column by column, and each is cut the other way round.
"""

import re

import torch
from torch import Tensor

from ssast_lab.checkpoint.tensors import CheckpointError

LAYOUT = "AudioMAE's"
MEL_BINS = 128
POSITIONS = "put in our order, row by row from the lowest mel band (AudioMAE has them column by column)"
NO_DISTILLATION = "AudioMAE has none: the encoder leaves the token out, and where it stands is a copy of [CLS]"
_LEFT = (
    (re.compile(r"decoder_.*|mask_token"), "of AudioMAE's decoder, which SSAST has no place for"),
    (re.compile(r"head(_dist)?\..*"), "a head that was not trained with this encoder's norm"),
)
_TAKEN = re.compile(r"cls_token|pos_embed|patch_embed\.proj\..*|blocks\..*|norm\..*")


def is_vit(state: dict[str, Tensor]) -> bool:
    return {"pos_embed", "patch_embed.proj.weight"} <= set(state) and "dist_token" not in state


def to_official_names(state: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The encoder in the official layout, with zeros for what it lacks, and what was left in the file -> why.
    :class:`CheckpointError` for what is no such encoder."""
    if any(name.startswith("fc_norm.") for name in state):
        raise CheckpointError(
            f"{source} is a fine-tuned model of AudioMAE, which normalises after pooling, where SSAST does before: only its "
            "pretrained encoders can be read."
        )
    weights, left = {}, {}
    for name, value in state.items():
        why = next((why for pattern, why in _LEFT if pattern.fullmatch(name)), None)
        if why:
            left[name] = why
        elif _TAKEN.fullmatch(name):
            weights[f"v.{name}"] = value
        else:
            raise CheckpointError(f"{source} holds {name}, which no encoder of AudioMAE has.")
    kernel, positions = weights["v.patch_embed.proj.weight"], weights["v.pos_embed"]
    if kernel.ndim != 4 or kernel.shape[1] != 1 or positions.ndim != 3:
        raise CheckpointError(
            f"{source} is a Vision Transformer for pictures: its patches have {tuple(kernel.shape)} weights."
        )
    rows = MEL_BINS // max(kernel.shape[3], 1)
    count, width = positions.shape[1] - 1, positions.shape[2]
    if not rows or count < 1 or count % rows:
        raise CheckpointError(f"{source} has positions for {count} patches, which are no whole columns of {rows}.")
    picture = positions[0, 1:].unflatten(0, (count // rows, rows)).transpose(0, 1).flatten(0, 1)
    zeros = torch.zeros(1, 1, width, dtype=positions.dtype)
    return weights | {
        "v.patch_embed.proj.weight": kernel.transpose(2, 3),
        "v.pos_embed": torch.cat((positions[:, :1], zeros, picture[None]), dim=1),
        "v.dist_token": zeros,
    }, left
