"""What a model does to one sound, as frozen records of numpy arrays: pure computation, nothing is drawn here.

Axes: T frames, F mel bins, N patches, M hidden patches.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssast_lab import audio, masking, objectives
from ssast_lab.checkpoint import Head
from ssast_lab.config import AudioConfig, ConfigError, MaskConfig, ModelConfig
from ssast_lab.model import SPECIAL, SSAST, Classifier, Encoder, EncoderModel, Encoding
from ssast_lab.patches import PatchGrid, patchify, unpatchify


class Shown:
    """A record that shows itself in a notebook: as picture and sound."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        # the way back up: what draws a record lies above it, and is looked up when a notebook asks
        return import_module("ssast_lab.stage").bundle(self)


@dataclass(frozen=True)
class Excerpt(Shown):
    """The stretch of a sound that a model looks at: a whole window of a longer one, all whole patches of a shorter one.

    Nothing is padded. A model takes a shorter sound at its own length, for which its positions are cut as for fine-tuning.
    Padding is trivial to predict and would flatter the figures.
    """

    start: float  # seconds into the sound
    fbank: Tensor  # (T, F) normalised log-mel
    grid: PatchGrid


def excerpt(waveform: Tensor, config: ModelConfig, start: float = 0.0) -> Excerpt:
    """(S,) at the rate of the configuration's features -> what a model of this configuration sees of it from ``start`` seconds on."""
    features = config.audio
    needed, rate = features.samples_of(config.frames), features.sample_rate
    first = round(start * rate)
    cut = waveform[first : first + needed]
    (_, shape), (_, stride) = config.patch, config.stride
    columns = (features.frames_of(len(cut)) - shape) // stride + 1
    if columns < 1:
        least = features.seconds_of(shape)
        if not start:
            raise audio.AudioError(
                f"The sound has {len(cut) / rate:.3f} s, but one patch of this model spans {least:.3f} s: "
                "choose a longer sound, or a model whose patches are shorter."
            )
        raise audio.AudioError(
            f"From {start:g} s on, only {len(cut) / rate:.3f} s of sound are left, "
            f"but one patch of this model spans {least:.3f} s: choose an earlier window or a longer sound."
        )
    frames = (columns - 1) * stride + shape
    return Excerpt(start, audio.log_mel(cut, features, frames=frames), replace(config.grid, frames=frames))


def draw_mask(excerpt: Excerpt, mask: MaskConfig | float = 400 / 512, seed: int = 0) -> Tensor:
    """(N,) bool: hides as many patches of the excerpt as ``mask`` says, or a share of them (0 to 1, at least one patch) in the way
    that the paper hides patches of this shape."""
    if not isinstance(mask, MaskConfig):
        if not 0 <= mask <= 1:
            raise ConfigError(
                f"The share of patches to hide is between 0 and 1, not {mask}: a number of them is a MaskConfig."
            )
        mask = MaskConfig(max(round(mask * excerpt.grid.count), 1), masking.usual_cluster(excerpt.grid))  # 0 hides one
    return masking.draw_mask(excerpt.grid, mask, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Reconstruction(Shown):
    """A spectrogram, what was hidden of it, what the model drew there, and which hidden patches it recognised."""

    grid: PatchGrid
    start: float  # seconds into the sound
    original: np.ndarray  # (T, F) normalised log-mel
    mask: np.ndarray  # (N,) bool, True = hidden
    reconstruction: np.ndarray  # (T, F) the visible patches as they are, the hidden ones as the model drew them
    patch_mse: np.ndarray  # (N,) of each hidden patch; NaN where it was visible
    rank: np.ndarray  # (N,) place of the true patch among the hidden ones, 0 = recognised; -1 where it was visible
    mse: float  # mean over the hidden patches
    baseline: float  # the MSE of drawing every hidden value as the visible mean of its mel bin, which needs no model
    nce: float  # nats
    accuracy: float  # share of the hidden patches that were recognised
    audio: AudioConfig = field(default_factory=AudioConfig)  # how the log-mel was normalised

    @property
    def hidden(self) -> int:
        """M"""
        return int(self.mask.sum())

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / self.hidden

    @property
    def error(self) -> np.ndarray:
        """(T, F) reconstruction minus original, 0 where the patch was visible."""
        return self.reconstruction - self.original


@torch.no_grad()
def reconstruct(model: SSAST, fbank: Tensor, mask: Tensor, start: float = 0.0) -> Reconstruction:
    """Hides the patches of (T, F) log-mel where (N,) ``mask`` is True and lets the model draw and recognise them."""
    device, grid = model.mask_token.device, model.encoder.grid_of(fbank)
    batch, hidden = fbank[None].to(device), mask[None].to(device)
    guess, targets = model(batch, hidden), model.targets(batch, hidden)
    scores = objectives.similarity(guess.contrastive, targets)
    losses = objectives.per_clip(guess, targets)

    fbank, mask = fbank.cpu(), mask.cpu()
    patches = torch.zeros(grid.count, grid.values)
    patches[mask] = guess.reconstruction[0].float().cpu()
    drawn = unpatchify(patches, grid)
    where = unpatchify(mask[:, None].expand(-1, grid.values).float(), grid) > 0
    patch_mse = torch.full((grid.count,), float("nan"))
    patch_mse[mask] = (guess.reconstruction - targets)[0].square().mean(-1).float().cpu()
    rank = torch.full((grid.count,), -1)
    rank[mask] = _ranks(scores[0].log_softmax(-1)).cpu()
    return Reconstruction(
        grid=grid,
        start=start,
        original=fbank.numpy(),
        mask=mask.numpy(),
        reconstruction=torch.where(where, drawn, fbank).numpy(),
        patch_mse=patch_mse.numpy(),
        rank=rank.numpy(),
        mse=float(losses.mse),
        baseline=visible_mean_mse(fbank, where),
        nce=float(losses.nce),
        accuracy=float(losses.accuracy),
        audio=model.config.audio,
    )


def visible_mean_mse(sound: Tensor, hidden: Tensor) -> float:
    """(T, F) log-mel, (T, F) bool -> the mean squared distance of the hidden values from :func:`visible_mean`."""
    return float((sound - visible_mean(sound, hidden)).square()[hidden].mean())


# --- how much can be hidden ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hiding:
    """What a model makes of one sound under several masks that hide equally many patches."""

    count: int  # M
    masks: np.ndarray  # (S, N) bool, True = hidden, a row for each seed
    mse: np.ndarray  # (S,) mean over the hidden patches
    baseline: np.ndarray  # (S,) the MSE of drawing every hidden value as the visible mean of its mel bin
    nce: np.ndarray  # (S,) nats
    accuracy: np.ndarray  # (S,) share of the hidden patches that were recognised


def hiding_counts(patches: int, points: int = 15) -> list[int]:
    """From one patch to all but one, close together at both ends."""
    places = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, points))
    return sorted({int(count) for count in np.rint(1 + places * (patches - 2))}) if patches > 1 else [1]


def hiding_curve(
    model: SSAST, excerpt: Excerpt, counts: Sequence[int], cluster: tuple[int, int] | None = None, seeds: int = 5
) -> Iterator[Hiding]:
    """A record for each number of hidden patches, as soon as it is known. The seeds 0, 1, ... draw the masks, which are those of
    :func:`draw_mask`: clusters of the sizes from the first of ``cluster`` to the second, or single patches."""
    for count in counts:
        masks = [draw_mask(excerpt, MaskConfig(count, cluster), seed) for seed in range(seeds)]
        yield hiding(model, excerpt.fbank, torch.stack(masks))


@torch.no_grad()
def hiding(model: SSAST, fbank: Tensor, masks: Tensor) -> Hiding:
    """(T, F) log-mel and (S, N) masks of equally many hidden patches, all at once."""
    device, grid = model.mask_token.device, model.encoder.grid_of(fbank)
    batch, hidden = fbank[None].expand(len(masks), -1, -1).to(device), masks.to(device)
    losses = objectives.per_clip(model(batch, hidden), model.targets(batch, hidden))
    where = unpatchify(masks[..., None].expand(-1, -1, grid.values).float(), grid) > 0
    mse, nce, accuracy = (value.float().cpu().numpy() for value in (losses.mse, losses.nce, losses.accuracy))
    baseline = np.array([visible_mean_mse(fbank.cpu(), each) for each in where.cpu()])
    return Hiding(int(masks[0].sum()), masks.cpu().numpy(), mse, baseline, nce, accuracy)


# --- a fingerprint ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fingerprint:
    """Mean and deviation of what a model makes of one built-in sound: two models, or two ways of loading one, that agree in these
    figures are very likely the same."""

    sound: str  # name of the built-in sound, of which the first window is taken
    log_mel: tuple[float, float]  # of the normalised features: near 0 and 0.5 where they are normalised as was trained
    tokens: tuple[float, float]  # of the patches after the encoder
    attention: float  # mean over layers and heads of the largest weight of each token

    def agrees(self, other: "Fingerprint", tolerance: float = 2e-3) -> bool:
        """Whether all figures are the same, up to what other hardware rounds."""
        pairs = zip(self.figures, other.figures, strict=True)
        return self.sound == other.sound and all(abs(one - two) <= tolerance * max(1.0, abs(two)) for one, two in pairs)

    @property
    def figures(self) -> tuple[float, ...]:
        return (*self.log_mel, *self.tokens, self.attention)


@torch.no_grad()
def fingerprint(model: torch.nn.Module) -> Fingerprint | None:
    """Of a model with our encoder; None for any other."""
    if not isinstance(model, SSAST | Classifier | EncoderModel):
        return None
    name, sound = next(iter(audio.builtin_sounds().items()))
    piece = excerpt(audio.load_waveform(sound["path"], to_rate=model.config.audio.sample_rate), model.config)
    encoding = model.encoder(piece.fbank[None], attention=range(model.config.depth))
    tokens, largest = encoding.patches, [weights.amax(-1).mean() for weights in encoding.attention.values()]
    return Fingerprint(
        name,
        (float(piece.fbank.mean()), float(piece.fbank.std())),
        (float(tokens.mean()), float(tokens.std())),
        float(torch.stack(largest).mean()),
    )


# --- baselines, which need no model --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """What hidden patches are drawn as without a model."""

    name: str
    drawn: np.ndarray  # (T, F) the visible values as they are
    patch_mse: np.ndarray  # (N,) of each hidden patch; NaN where it was visible
    mse: float  # mean over the hidden patches


def baselines(record: Reconstruction) -> tuple[Baseline, ...]:
    """The visible mean of every mel bin, and linear interpolation: in time where patches are whole frames, else in two
    dimensions. Where nothing is visible, both are 0, the mean of the training data."""
    grid, sound, mask = record.grid, torch.from_numpy(record.original), torch.from_numpy(record.mask)
    where = unpatchify(mask[:, None].expand(-1, grid.values).float(), grid) > 0
    means = torch.where(where, visible_mean(sound, where), sound).numpy()
    picture, hidden = record.original.astype(np.float64), where.numpy()
    if hidden.all():
        drawn = np.zeros_like(picture)
    else:
        drawn = linear_in_time(picture, hidden[:, 0]) if grid.rows == 1 else linear_inpainting(picture, hidden)
    named = (("bin mean", means), ("linear in time" if grid.rows == 1 else "linear inpainting", drawn))
    return tuple(_baseline(name, record, values.astype(np.float32)) for name, values in named)


def _baseline(name: str, record: Reconstruction, drawn: np.ndarray) -> Baseline:
    errors = patchify(torch.from_numpy((drawn - record.original) ** 2), record.grid).mean(-1).numpy()
    patch_mse = np.where(record.mask, errors, np.float32(np.nan))
    return Baseline(name, drawn, patch_mse, float(errors[record.mask].mean()) if record.hidden else float("nan"))


def visible_mean(sound: Tensor, hidden: Tensor) -> Tensor:
    """(T, F) log-mel, (T, F) bool -> (F,): the mean of what is visible in each mel bin; that of all that is visible where a
    bin shows nothing, or 0, the mean of the training data, where nothing is visible at all."""
    visible = ~hidden
    count = visible.sum(0)
    anywhere = sound[visible].mean() if bool(visible.any()) else sound.new_zeros(())
    return torch.where(count > 0, (sound * visible).sum(0) / count.clamp(min=1), anywhere)


def linear_in_time(sound: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(T, F), (T,) bool -> (T, F): hidden frames are interpolated between the visible frames before and after them; at the
    ends the nearest visible frame is repeated."""
    visible = sound[~hidden]
    numbers = np.arange(len(visible))
    places = np.interp(np.arange(len(sound)), np.flatnonzero(~hidden), numbers)  # 2.5 is half way from visible 2 to 3
    before = places.astype(int)
    after = np.minimum(before + 1, len(visible) - 1)
    share = (places - before)[:, None]
    return (1 - share) * visible[before] + share * visible[after]


def linear_inpainting(sound: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(T, F), (T, F) bool -> (T, F): linear interpolation in two dimensions. Every hidden value is the mean of its four
    neighbours (fewer at the borders), and visible values stay: Laplace's equation, solved exactly.

    This is a stronger baseline than linear interpolation over a triangulation of the visible values.
    """
    from scipy.sparse.linalg import LaplacianNd, splu

    gaps, drawn = hidden.ravel(), sound.flatten()
    equations = LaplacianNd(sound.shape, boundary_conditions="neumann", dtype=np.float64).tosparse().tocsr()[gaps]
    drawn[gaps] = splu(equations[:, gaps].tocsc()).solve(-(equations[:, ~gaps] @ drawn[~gaps]))
    return drawn.reshape(sound.shape)


# --- attention and matches ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attention(Shown):
    """Who attends to whom in every layer and head of an encoder."""

    grid: PatchGrid
    start: float  # seconds into the sound
    mask: np.ndarray | None  # (N,) bool, True = hidden; None where nothing was
    weights: np.ndarray  # (L, H, K, K) float32, K = 2 + N tokens: [CLS], distillation, then the patches; rows sum to 1

    def among_patches(self, layer: int, head: int | None = None) -> np.ndarray:
        """(N, N): how much each patch (row) attends to each patch, in one head or the mean of all; rows sum to 1 or less,
        as the rest goes to [CLS] and distillation."""
        weights = self.weights[layer]
        return (weights.mean(0) if head is None else weights[head])[SPECIAL:, SPECIAL:]

    def rollout(self) -> np.ndarray:
        """(K, K): what the tokens after the last layer are made of, of the tokens before the first; rows sum to 1.

        Attention of all heads, halved for the residual connection, multiplied through the layers (Abnar and Zuidema,
        "Quantifying attention flow in Transformers", ACL 2020).
        """
        identity = np.eye(self.weights.shape[-1], dtype=np.float32)
        mixed = identity
        for weights in self.weights:
            mixed = (0.5 * weights.mean(0) + 0.5 * identity) @ mixed
        return mixed

    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """(L, H) seconds and (L, H) mel bins: how far the patches that are attended to lie away in the mean, from middle to
        middle of the patches."""
        rows, columns = np.divmod(np.arange(self.grid.count), self.grid.columns)
        time = np.abs(columns[:, None] - columns) * self.grid.stride[1] * self.grid.hop
        frequency = np.abs(rows[:, None] - rows) * self.grid.stride[0]
        means = np.empty((2, *self.weights.shape[:2]))
        for layer, weights in enumerate(self.weights):  # all at once would take as much memory again, several times
            among = weights[:, SPECIAL:, SPECIAL:]
            share = among / among.sum(-1, keepdims=True).clip(min=1e-12)
            means[:, layer] = [(share * apart).sum(-1).mean(-1) for apart in (time, frequency)]
        return means[0], means[1]


@torch.no_grad()
def attend(
    model: SSAST | Classifier | EncoderModel, fbank: Tensor, mask: Tensor | None = None, start: float = 0.0
) -> Attention:
    """The attention of every layer on (T, F) log-mel, of which the patches are hidden where (N,) ``mask`` is True; only a
    pretraining model has a token to put in their place."""
    encoder, layers = model.encoder, range(len(model.encoder.blocks))
    batch = fbank[None].to(encoder.positions.device)
    if mask is None:
        encoding = encoder(batch, attention=layers)
    elif isinstance(model, SSAST):
        encoding = model.encode(batch, mask[None], attention=layers)
    else:
        raise ConfigError("Only a pretraining model can hide patches: this one has no token to put in their place.")
    weights = torch.cat([encoding.attention[layer] for layer in layers]).float().cpu().numpy()
    return Attention(encoder.grid_of(fbank), start, None if mask is None else mask.cpu().numpy(), weights)


@dataclass(frozen=True)
class Match(Shown):
    """Which true patch each prediction is most like, among the hidden patches of one sound."""

    grid: PatchGrid
    patches: np.ndarray  # (M,) numbers of the hidden patches
    scores: np.ndarray  # (M, M) float32 dot products: row i is the prediction at patch i, column j the true patch j
    rank: np.ndarray  # (M,) place of the true patch among all for each prediction, 0 = recognised (the paper's softmax)
    rank_among_predictions: np.ndarray  # (M,) place of the prediction for each true patch (the official code's)
    taken_for: np.ndarray  # (M, at most 5) numbers of the true patches that each prediction is most like, best first


@torch.no_grad()
def match(model: SSAST, fbank: Tensor, mask: Tensor) -> Match:
    """Compares what the model says of each hidden patch of (T, F) log-mel with all that were hidden by (N,) ``mask``."""
    batch = fbank[None].to(model.mask_token.device)
    guess, targets = model(batch, mask[None]), model.targets(batch, mask[None])
    scores = objectives.similarity(guess.contrastive, targets)[0].cpu()
    patches = mask.cpu().nonzero()[:, 0]
    best = scores.topk(min(5, len(patches)), dim=1).indices
    return Match(
        grid=model.encoder.grid_of(fbank),
        patches=patches.numpy(),
        scores=scores.numpy(),
        rank=_ranks(scores).numpy(),
        rank_among_predictions=_ranks(scores.T).numpy(),
        taken_for=patches[best].numpy(),
    )


def _ranks(scores: Tensor) -> Tensor:
    """(M, M) -> (M,): the place of the diagonal in each row, from 0. Among equals, such as patches of digital silence, the
    first counts as recognised, as in the accuracy."""
    true_scores = scores.diagonal()[:, None]
    return ((scores > true_scores) | (scores == true_scores).tril(-1)).sum(1)


@torch.no_grad()
def predict(
    model: SSAST | EncoderModel, heads: Iterable[Head], fbank: Tensor, mask: Tensor | None = None
) -> dict[str, np.ndarray]:
    """What linear heads of a model say about (T, F) log-mel: name of the head -> (L,) probabilities of its labels.

    Where (N,) ``mask`` is True, a patch is left out: the encoder sees the others only. Raises :class:`ConfigError` where
    none is left.
    """
    heads = list(heads)
    tokens = _of_the_visible(model.encoder, fbank, mask, layers=sorted({head.layer for head in heads})).layers
    means = {layer: values[0, SPECIAL:].mean(0).float().cpu() for layer, values in tokens.items()}
    return {head.name: head(means[head.layer]).numpy() for head in heads}


@torch.no_grad()
def classify(model: Classifier, fbank: Tensor, mask: Tensor | None = None) -> np.ndarray:
    """What a fine-tuned classifier says about (T, F) log-mel: (L,) probabilities of its labels, which sum to 1. ``mask`` as in
    :func:`predict`."""
    pooled = model.pool(_of_the_visible(model.encoder, fbank, mask).tokens)
    return model.linear(model.norm(pooled))[0].float().softmax(-1).cpu().numpy()


def _of_the_visible(encoder: Encoder, fbank: Tensor, mask: Tensor | None, layers: Sequence[int] = ()) -> Encoding:
    batch, grid = fbank[None].to(encoder.positions.device), encoder.grid_of(fbank)
    visible = None
    if mask is not None:
        visible = (~mask).nonzero().T.to(batch.device)  # (1, n)
        if not visible.numel():
            raise ConfigError("All patches are hidden: there is nothing left to predict from.")
    x = encoder.patch_embedding(patchify(batch, grid))
    return encoder.transform(x if visible is None else x[:, visible[0]], grid, layers=layers, patches=visible)
