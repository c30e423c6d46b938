"""The layout of Audyn (tky823/Audyn), whose release files hold the official weights with both pretext heads, in the official one.

Audyn keeps the positions as a picture (D, rows, columns), and adds those of [CLS] and distillation to the tokens themselves. Its
backbone is PyTorch's ``nn.TransformerEncoder``.
"""

import torch
from torch import Tensor

from ssast_lab.checkpoint import names
from ssast_lab.checkpoint.tensors import CheckpointError

LAYOUT = "Audyn's (its LayerNorms computed as in the original code, with 1e-6)"
TABLE: names.Table = [  # (Audyn's, the official code's)
    ("embedding.conv2d.*", "v.patch_embed.proj.*"),
    ("embedding.cls_token", "v.cls_token"),
    ("embedding.dist_token", "v.dist_token"),
    ("embedding.positional_embedding", "v.pos_embed"),
    ("masker.mask_embedding", "mask_embed"),
    ("backbone.layers.*.norm1.*", "v.blocks.*.norm1.*"),
    ("backbone.layers.*.norm2.*", "v.blocks.*.norm2.*"),
    ("backbone.layers.*.self_attn.in_proj_*", "v.blocks.*.attn.qkv.*"),
    ("backbone.layers.*.self_attn.out_proj.*", "v.blocks.*.attn.proj.*"),
    ("backbone.layers.*.linear1.*", "v.blocks.*.mlp.fc1.*"),
    ("backbone.layers.*.linear2.*", "v.blocks.*.mlp.fc2.*"),
    ("backbone.norm.*", "v.norm.*"),
    ("classifier.linear1.*", "cpredlayer.0.*"),
    ("classifier.linear2.*", "cpredlayer.2.*"),
    ("reconstructor.linear1.*", "gpredlayer.0.*"),
    ("reconstructor.linear2.*", "gpredlayer.2.*"),
    ("head.norm.*", "mlp_head.0.*"),
    ("head.linear.*", "mlp_head.1.*"),
]


def is_audyn(state: dict[str, Tensor]) -> bool:
    return any(name.startswith("embedding.conv2d.") for name in state)


def to_official_names(state: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The same weights in the official layout, and its names -> those in the file. :class:`CheckpointError` for what is none of
    Audyn's SSAST models."""
    found = {name: names.ours(name, TABLE) for name in state}
    foreign = [name for name, official in found.items() if official is None]
    if foreign:
        raise CheckpointError(f"{source} holds {foreign[0]}, which no SSAST model of Audyn has.")
    origin = {official: name for name, official in found.items() if official}
    weights = {official: state[name] for official, name in origin.items()}
    for token in ("v.cls_token", "v.dist_token", "mask_embed"):
        if token in weights and weights[token].ndim == 1:
            weights[token] = weights[token][None, None]
    picture = weights.get("v.pos_embed")
    kernel = weights.get("v.patch_embed.proj.weight")
    if picture is None or kernel is None or picture.ndim != 3 or kernel.ndim != 4:
        raise CheckpointError(f"{source} lacks the positions (D, rows, columns) or patches of Audyn's SSAST models.")
    width, rows, columns = picture.shape
    special = torch.zeros(2, width, dtype=picture.dtype)
    weights["v.pos_embed"] = torch.cat((special, picture.flatten(1).T))[None]
    if "mask_embed" in weights:  # pretraining: patches that tile the spectrogram
        weights["p_input_fdim"] = torch.tensor(rows * kernel.shape[2])
        weights["p_input_tdim"] = torch.tensor(columns * kernel.shape[3])
    return weights, origin
