"""The Self-Supervised Audio Spectrogram Transformer (Gong et al., AAAI 2022): encoder, pretext heads and classifier.

Axes: B batch, T frames, F mel bins, N patches, M hidden patches, P values in a patch, D width, H heads,
K tokens ([CLS], distillation, then the N patches).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssast_lab.config import ConfigError, ModelConfig
from ssast_lab.objectives import Prediction
from ssast_lab.patches import PatchGrid, numbers, patchify, select, to_device_of

CACHED = 1 << 23  # attention weights of a batch that stay in a processor's cache
SPECIAL = 2  # [CLS] and distillation stand before the patches


class Attention(nn.Module):
    """Multi-head self-attention; the attention weights are computed only when they are asked for."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, K, D / H)
        return query, key, value

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """``seen`` (B, 1, K, K) bool: which tokens each token (row) attends to, where not all."""
        query, key, value = self._split(x)
        # bfloat16 on a CPU: the fused kernel's backward takes twice as long as that of the plain matrix products, and so does
        # its forward, unless the weights outgrow the processor's cache
        coarse = x.device.type == "cpu" and query.dtype == torch.bfloat16
        if coarse and (torch.is_grad_enabled() or query.shape[:-1].numel() * query.shape[-2] <= CACHED):
            mixed = _softmax(query, key, seen) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor) -> Tensor:
        """(B, K, D) -> (B, H, K, K): how much each token (row) attends to each token (column); rows sum to 1."""
        query, key, _ = self._split(x)
        return _softmax(query, key)


def _softmax(query: Tensor, key: Tensor, seen: Tensor | None = None) -> Tensor:
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores if seen is None else scores.masked_fill(~seen, -torch.inf)).softmax(-1)


def _within_clips(clips: Tensor) -> Tensor:
    """(B, n) which clip each patch is of -> (B, 1, 2 + n, 2 + n) bool: patches see those of their own clip. [CLS] and distillation
    see all and are seen by all."""
    tokens = F.pad(clips, (SPECIAL, 0), value=-1)
    special = tokens < 0
    return ((tokens[:, :, None] == tokens[:, None]) | special[:, :, None] | special[:, None])[:, None]


class Block(nn.Module):
    """A pre-norm Transformer layer."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), seen)
        return x + self.mlp(self.norm2(x))


class Encoding(NamedTuple):
    """What the encoder makes of a spectrogram."""

    tokens: Tensor  # (B, K, D) after the last layer's norm: [CLS], distillation, then the patches
    attention: dict[int, Tensor]  # layer -> (B, H, K, K), for the layers that were asked for
    layers: dict[int, Tensor]  # layer -> (B, K, D) tokens after it, before the last norm, for the layers asked for

    @property
    def patches(self) -> Tensor:
        """(B, N, D)"""
        return self.tokens[:, SPECIAL:]


class Encoder(nn.Module):
    """Patches in, tokens out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.grid = config, config.grid
        width, eps = config.width, config.norm_eps or 1e-6
        self.patch_embedding = nn.Linear(self.grid.values, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, SPECIAL + self.grid.count, width))
        self.blocks = nn.ModuleList(Block(width, config.heads, eps) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps)
        for token in (self.cls_token, self.distillation_token, self.positions):
            nn.init.trunc_normal_(token, std=0.02)
        for token in (self.cls_token, self.distillation_token):
            # their gradients are slices, of whose strides the exchange among processes would warn
            token.register_hook(lambda gradient: gradient.flatten().view(gradient.shape))
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def start_as_mae(self) -> None:
        """Starts anew as Masked Autoencoders do (He et al., CVPR 2022, appendix A.1): linear layers at the scale of Glorot and
        Bengio (2010), which in narrow models is several times the official 0.02, and positions as sines and cosines of time
        and frequency, half the width each, all of it for time where there is one row."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                for part in layer.weight.chunk(3) if layer.out_features == 3 * layer.in_features else (layer.weight,):
                    nn.init.xavier_uniform_(part)
                nn.init.zeros_(layer.bias)
        width, grid = self.config.width, self.grid
        if width % 4:
            raise ConfigError(f"Sines and cosines along two axes need a width that 4 divides, not {width}.")

        def waves(places: int, width: int) -> Tensor:
            angles = torch.arange(places)[:, None] * 10_000.0 ** -(torch.arange(width // 2) / (width // 2))
            return torch.cat((angles.sin(), angles.cos()), dim=1)  # (places, width)

        if grid.rows == 1:
            table = waves(grid.columns, width)
        else:
            time = waves(grid.columns, width // 2)[None].expand(grid.rows, -1, -1)
            frequency = waves(grid.rows, width // 2)[:, None].expand(-1, grid.columns, -1)
            table = torch.cat((time, frequency), dim=-1).flatten(0, 1)
        self.positions[0, SPECIAL:] = table

    def grid_of(self, fbank: Tensor) -> PatchGrid:
        """The patch grid of (B, T, F) log-mel of any length T."""
        return replace(self.grid, frames=fbank.shape[-2])

    def forward(
        self, fbank: Tensor, attention: Sequence[int] = (), layers: Sequence[int] = (), depth: int | None = None
    ) -> Encoding:
        """(B, T, F) normalised log-mel -> :class:`Encoding`; ``attention`` and ``layers`` name layers from 0. ``depth``: only so
        many layers are gone through, and ``tokens`` are what the last norm makes of the last of these.

        Where T is not the length that the model was made for, its positions are cut or interpolated.
        """
        grid = self.grid_of(fbank)
        return self.transform(self.patch_embedding(patchify(fbank, grid)), grid, attention, layers, depth=depth)

    def transform(
        self,
        x: Tensor,
        grid: PatchGrid,
        attention: Sequence[int] = (),
        layers: Sequence[int] = (),
        patches: Tensor | None = None,
        clips: Tensor | None = None,
        depth: int | None = None,
    ) -> Encoding:
        """(B, N, D) embedded patches of a grid, hidden ones already replaced -> :class:`Encoding`. ``patches`` (B, n) are
        the numbers of those that are here, where not all are, and ``clips`` (B, n) say which clip each of them is of, where
        several fill the window: patches of different clips do not attend to each other."""
        wrong = [layer for layer in (*attention, *layers) if not 0 <= layer < len(self.blocks)]
        if wrong:
            raise ValueError(f"There is no layer {wrong[0]}: the model has {len(self.blocks)}, numbered from 0.")
        special = torch.cat((self.cls_token, self.distillation_token), dim=1).expand(len(x), -1, -1)
        positions = self.positions if grid == self.grid else resample_positions(self.positions, self.grid, grid)
        if patches is not None:
            chosen_positions = positions[0, SPECIAL:].index_select(0, patches.flatten()).unflatten(0, patches.shape)
            positions = torch.cat((positions[:, :SPECIAL].expand(len(x), -1, -1), chosen_positions), dim=1)
        x = torch.cat((special, x), dim=1) + positions
        within = None if clips is None else _within_clips(clips)
        whole = self.config.distillation
        if not whole:
            x = torch.cat((x[:, :1], x[:, SPECIAL:]), dim=1)
            within = None if within is None else within[..., 1:, 1:]
        seen: dict[int, Tensor] = {}
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(islice(self.blocks, depth)):
            if index in attention:
                assert isinstance(block, Block)
                weights = block.attention.weights(block.norm1(x))
                seen[index] = weights if whole else _copied(_unseen(weights), 2)
            x = block(x, within)
            if index in layers:
                kept[index] = x if whole else _copied(x, 1)
        x = self.norm(x)
        return Encoding(x if whole else _copied(x, 1), seen, kept)

    def resized(self, config: ModelConfig) -> "Encoder":
        """The same encoder for another length or stride: its positions are cut or interpolated."""
        if (config.width, config.depth, config.heads, config.patch) != (
            self.config.width,
            self.config.depth,
            self.config.heads,
            self.config.patch,
        ):
            raise ConfigError(
                "Only frames, mel bins and strides of a trained encoder can be changed, "
                "not its width, depth, heads or patch shape."
            )
        encoder = Encoder(config)
        state = self.state_dict() | {"positions": resample_positions(self.positions.detach(), self.grid, encoder.grid)}
        encoder.load_state_dict(state)
        return encoder.to(self.positions.device)


def _copied(tokens: Tensor, axis: int) -> Tensor:
    """[CLS] once more, where the distillation token would stand."""
    return torch.cat((tokens.narrow(axis, 0, 1), tokens), dim=axis)


def _unseen(weights: Tensor) -> Tensor:
    """(..., K - 1) -> (..., K): nobody attends to a distillation token that is not there."""
    return torch.cat((weights[..., :1], torch.zeros_like(weights[..., :1]), weights[..., 1:]), dim=-1)


def resample_positions(positions: Tensor, old: PatchGrid, new: PatchGrid) -> Tensor:
    """(1, 2 + N, D) -> (1, 2 + N', D): along each axis, the middle of a longer table is cut out, and a shorter one is
    stretched by bilinear interpolation (the official ``ASTModel.__init__``, whose cut in frequency was broken)."""
    special, patches = positions[:, :SPECIAL], positions[:, SPECIAL:]
    table = patches.transpose(1, 2).unflatten(2, (old.rows, old.columns))
    if new.columns < old.columns:
        start = old.columns // 2 - new.columns // 2
        table = table[..., start : start + new.columns]
    if new.rows < old.rows:
        start = old.rows // 2 - new.rows // 2
        table = table[..., start : start + new.rows, :]
    if table.shape[-2:] != (new.rows, new.columns):
        table = F.interpolate(table, size=(new.rows, new.columns), mode="bilinear")
    return torch.cat((special, table.flatten(2).transpose(1, 2)), dim=1)


def _pretext_head(width: int, values: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, values))


class SSAST(nn.Module):
    """The pretraining model: one forward with one mask serves both objectives."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        grid = config.grid
        if not grid.tiles:
            raise ConfigError(
                f"Pretraining needs patches that tile the spectrogram, but {grid.shape[0]}x{grid.shape[1]} patches "
                f"at strides of {grid.stride[0]}x{grid.stride[1]} do not tile {grid.mel_bins} mel bins x {grid.frames} frames."
            )
        self.config, self.grid = config, grid
        self.encoder = Encoder(config)
        self.mask_token = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, 1, config.width)))
        self.contrastive_head = _pretext_head(config.width, grid.values)
        self.reconstruction_head = _pretext_head(config.width, grid.values)

    def encode(
        self,
        fbank: Tensor,
        mask: Tensor | None = None,
        attention: Sequence[int] = (),
        layers: Sequence[int] = (),
        clips: Tensor | None = None,
    ) -> Encoding:
        """(B, T, F) log-mel, hidden where ``mask`` (B, N), on whatever device, is True -> :class:`Encoding`. ``clips`` (B, N) as
        in :meth:`Encoder.transform`."""
        grid = self.encoder.grid_of(fbank)
        x = self.encoder.patch_embedding(patchify(fbank, grid))
        if mask is not None:
            x = torch.where(to_device_of(mask, x)[..., None], self.mask_token.to(x.dtype), x)
        return self.encoder.transform(x, grid, attention, layers, clips=clips)

    def forward(
        self, fbank: Tensor, mask: Tensor, asked: Tensor | None = None, clips: Tensor | None = None
    ) -> Prediction:
        """(B, T, F) normalised log-mel and (B, N) mask, True = hidden -> what it says of the M hidden patches.

        With ``asked`` (B, K), places among the M, the encoder takes the visible patches and those K only, and says nothing of
        the others: Fu et al., "Rethinking Patch Dependence for Masked Autoencoders" (TMLR 2025), found that hidden patches
        tell each other nothing, and that a part of them teaches as much. ``clips`` (B, N), on whatever device, say which clip
        each patch is of, where several fill the window.
        """
        clips = None if clips is None else to_device_of(clips, fbank)
        if asked is None:
            hidden = select(self.encode(fbank, mask, clips=clips).patches, mask)
        else:
            hidden = self._encode_asked(fbank, mask, asked, clips)
        return Prediction(self.contrastive_head(hidden), self.reconstruction_head(hidden))

    def _encode_asked(self, fbank: Tensor, mask: Tensor, asked: Tensor, clips: Tensor | None) -> Tensor:
        """-> (B, K, D): tokens of the hidden patches that are asked for; they attend to each other and to the visible ones."""
        grid = self.encoder.grid_of(fbank)
        visible = self.encoder.patch_embedding(select(patchify(fbank, grid), ~mask))
        hidden = self.mask_token.to(visible.dtype).expand(*asked.shape, -1)
        patches = torch.cat((numbers(~mask), numbers(mask).gather(1, asked)), dim=1)
        tokens = torch.cat((visible, hidden), dim=1)
        patches = to_device_of(patches, fbank)
        clips = None if clips is None else clips.gather(1, patches)
        return self.encoder.transform(tokens, grid, patches=patches, clips=clips).patches[:, -asked.shape[1] :]

    def targets(self, fbank: Tensor, mask: Tensor) -> Tensor:
        """(B, T, F), (B, N) -> (B, M, P): the true values of the hidden patches."""
        return select(patchify(fbank, self.encoder.grid_of(fbank)), mask)

    def resized(self, frames: int) -> "SSAST":
        """The same model for spectrograms of another length."""
        model = SSAST(replace(self.config, frames=frames))
        model.load_state_dict(
            self.state_dict()
            | {"encoder.positions": resample_positions(self.encoder.positions.detach(), self.grid, model.grid)}
        )
        return model.to(self.mask_token.device).train(self.training)


class EncoderModel(nn.Module):
    """An encoder without a head, as other libraries publish it, for embeddings or fine-tuning."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)

    def forward(self, fbank: Tensor) -> Encoding:
        """(B, T, F) normalised log-mel -> :class:`Encoding`."""
        return self.encoder(fbank)


class Classifier(nn.Module):
    """An encoder with a linear classification head on its pooled tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if not config.labels:
            raise ConfigError("A classifier needs the names of its labels.")
        self.config = config
        self.encoder = Encoder(config)
        self.norm = nn.LayerNorm(config.width, config.norm_eps or 1e-5)
        self.linear = nn.Linear(config.width, len(config.labels))

    @classmethod
    def from_pretrained(
        cls, model: "SSAST | Classifier | EncoderModel", labels: Sequence[str], **changes: object
    ) -> "Classifier":
        """A classifier on a copy of a trained encoder; ``changes`` to ``frames``, ``stride`` or ``pooling`` resize it."""
        config = replace(model.config, labels=tuple(labels), **changes)  # type: ignore[arg-type]
        classifier = cls(config)
        classifier.encoder = model.encoder.resized(config)
        return classifier.to(model.encoder.positions.device)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, K, D) -> (B, D): the mean over the patches, or over [CLS] and distillation."""
        return (tokens[:, SPECIAL:] if self.config.pooling == "mean" else tokens[:, :SPECIAL]).mean(1)

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) normalised log-mel -> (B, labels) logits."""
        return self.linear(self.norm(self.pool(self.encoder(fbank).tokens)))
