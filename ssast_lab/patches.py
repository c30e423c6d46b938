"""The patch grid: how a spectrogram is cut into patches, and where each patch lies.

Axes: B batch, T frames, F mel bins, N patches, M masked patches, P values in a patch, D width.

Patches run row by row from the lowest mel band, time fastest, and the values inside a patch run the same way
(frequency slow, time fast): the order of ``torch.nn.Unfold`` on a (F, T) picture, which the official SSAST uses.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

BAND = (20.0, 8000.0)  # Hz, of the official mel bands


@dataclass(frozen=True)
class PatchGrid:
    """How a (T, F) spectrogram is cut into ``rows * columns`` patches.

    ``shape`` and ``stride`` are (mel bins, frames). A stride smaller than the shape makes patches overlap, which
    SSAST uses in fine-tuning only. What is left over at the upper and right edge belongs to no patch.
    """

    mel_bins: int = 128
    frames: int = 1024
    shape: tuple[int, int] = (16, 16)
    stride: tuple[int, int] = (16, 16)
    band: tuple[float, float] = BAND  # Hz, of the mel bins together
    hop: ClassVar[float] = 0.010  # seconds from one frame to the next
    window: ClassVar[float] = 0.025  # seconds that one frame looks at

    def __post_init__(self) -> None:
        for name, size, patch, stride in (
            ("mel bins", self.mel_bins, self.shape[0], self.stride[0]),
            ("frames", self.frames, self.shape[1], self.stride[1]),
        ):
            if size < 1 or patch < 1 or stride < 1:
                raise ValueError(
                    f"A patch grid needs positive sizes, but along the {name} it has "
                    f"size {size}, patch {patch} and stride {stride}."
                )
            if patch > size:
                raise ValueError(f"A patch of {patch} {name} does not fit into {size} {name}.")

    @property
    def rows(self) -> int:
        return (self.mel_bins - self.shape[0]) // self.stride[0] + 1

    @property
    def columns(self) -> int:
        return (self.frames - self.shape[1]) // self.stride[1] + 1

    @property
    def count(self) -> int:
        """N, the number of patches."""
        return self.rows * self.columns

    @property
    def values(self) -> int:
        """P, the number of values in a patch."""
        return self.shape[0] * self.shape[1]

    @property
    def tiles(self) -> bool:
        """Whether the patches cover the whole spectrogram without overlap."""
        return self.stride == self.shape and self.mel_bins % self.shape[0] == 0 and self.frames % self.shape[1] == 0

    def bounds(self, patch: int) -> tuple[int, int, int, int]:
        """(first mel bin, end mel bin, first frame, end frame) of a patch; the ends are exclusive."""
        if not 0 <= patch < self.count:
            raise ValueError(f"There is no patch {patch}: the grid has {self.count}, numbered from 0.")
        row, column = divmod(patch, self.columns)
        low, start = row * self.stride[0], column * self.stride[1]
        return low, low + self.shape[0], start, start + self.shape[1]

    def seconds(self, patch: int) -> tuple[float, float]:
        """The stretch of sound that a patch sees: from the first frame's first sample to the last frame's last one."""
        _, _, start, end = self.bounds(patch)
        return start * self.hop, (end - 1) * self.hop + self.window

    def hertz(self, patch: int) -> tuple[float, float]:
        """The band that a patch sees, in Hz: from the lower foot of its lowest triangular mel filter to the upper foot
        of its highest. Filter m reaches from edge m to edge m + 2 of ``mel_bins + 2`` edges that are evenly spaced on
        the HTK mel scale over the whole band."""
        bottom, top, _, _ = self.bounds(patch)
        edges = mel_edges(self.mel_bins, *self.band)
        return float(edges[bottom]), float(edges[top + 1])

    def mel_bin(self, hertz: float) -> float:
        """Where a frequency lies among the mel bins: the filter of bin m peaks at m. The inverse of :func:`mel_edges`."""
        low, high = map(_mel, self.band)
        return (_mel(hertz) - low) / (high - low) * (self.mel_bins + 1) - 1


def _mel(hertz: float) -> float:
    """The HTK mel scale."""
    return 1127.0 * math.log1p(hertz / 700.0)


def mel_edges(mel_bins: int = 128, low: float = BAND[0], high: float = BAND[1]) -> Tensor:
    """(mel_bins + 2,) float64 Hz: feet and peaks of the triangular filters on the HTK mel scale, mel = 1127 ln(1 + f/700);
    filter m rises from edge m to its peak at edge m + 1 and falls to edge m + 2 (Kaldi, feat/mel-computations.h)."""
    mels = torch.linspace(0, 1, mel_bins + 2, dtype=torch.float64) * (_mel(high) - _mel(low)) + _mel(low)
    return 700.0 * torch.expm1(mels / 1127.0)


def patchify(spectrogram: Tensor, grid: PatchGrid) -> Tensor:
    """(B, T, F) or (T, F) -> (B, N, P) or (N, P)."""
    if spectrogram.shape[-2:] != (grid.frames, grid.mel_bins):
        raise ValueError(
            f"This grid cuts spectrograms of {grid.frames} frames x {grid.mel_bins} mel bins, "
            f"but this one has {spectrogram.shape[-2]} x {spectrogram.shape[-1]}."
        )
    picture = spectrogram.transpose(-1, -2)  # (…, F, T)
    windows = picture.unfold(-2, grid.shape[0], grid.stride[0]).unfold(-2, grid.shape[1], grid.stride[1])
    return windows.flatten(-2).flatten(-3, -2)  # (…, rows, columns, f, t) -> (…, N, P)


def unpatchify(patches: Tensor, grid: PatchGrid) -> Tensor:
    """(B, N, P) or (N, P) -> (B, T, F) or (T, F): the inverse of :func:`patchify`.

    Where patches overlap their values are averaged; what no patch covers is 0.
    """
    lead = patches.shape[:-2]
    if patches.shape[-2:] != (grid.count, grid.values):
        raise ValueError(
            f"This grid has {grid.count} patches of {grid.values} values, "
            f"but here are {patches.shape[-2]} of {patches.shape[-1]}."
        )
    flat = patches.reshape(-1, grid.count, grid.values)
    if grid.tiles:
        cells = flat.unflatten(-1, grid.shape).unflatten(1, (grid.rows, grid.columns))  # (B, rows, columns, f, t)
        return cells.permute(0, 2, 4, 1, 3).reshape(*lead, grid.frames, grid.mel_bins)

    def fold(columns: Tensor) -> Tensor:
        return torch.nn.functional.fold(
            columns.transpose(1, 2), (grid.mel_bins, grid.frames), kernel_size=grid.shape, stride=grid.stride
        )[:, 0]

    total = fold(flat) / fold(torch.ones_like(flat[:1])).clamp(min=1)
    return total.transpose(-1, -2).reshape(*lead, grid.frames, grid.mel_bins)


def select(items: Tensor, mask: Tensor) -> Tensor:
    """The hidden ones of (B, N, ...) items in order: (B, M, ...). ``mask`` is (B, N) bool, True = hidden, and hides
    the same number of patches in every clip. Keep it on the CPU: counting it on a GPU would force a synchronisation."""
    batch = len(mask)
    if mask.shape != items.shape[:2]:
        raise ValueError(
            f"A mask of the shape {tuple(mask.shape)} does not say which of {tuple(items.shape[:2])} patches are hidden."
        )
    hidden = mask.sum(1)
    if not bool((hidden == hidden[0]).all()):
        raise ValueError(
            f"Every clip of a batch must hide the same number of patches, but these hide {hidden.tolist()}."
        )
    rows = to_device_of(mask.flatten().nonzero().squeeze(1), items)
    return items.flatten(0, 1).index_select(0, rows).unflatten(0, (batch, -1)) if len(rows) else items[:, :0]


def numbers(mask: Tensor) -> Tensor:
    """(B, N) bool -> (B, M): the numbers of the patches that are True, in order. Every clip must have equally many."""
    return mask.nonzero()[:, 1].view(len(mask), -1)


def to_device_of(tensor: Tensor, other: Tensor) -> Tensor:
    """``tensor`` on the device of ``other``. A copy from the CPU to a GPU does not wait for the GPU's pending work; a copy
    to the CPU does, or its values would be read before they have arrived."""
    return tensor.to(other.device, non_blocking=tensor.device.type == "cpu")
