"""Upstreams: frozen models behind one interface, which turn sound into embeddings.

Axes: B clips of a batch, S samples at the upstream's rate, T frames, F mel bins, N tokens, D width. The vocabulary is that of SUPERB
(Yang et al., Interspeech 2021): an upstream gives representations, layer by layer, and a small model is trained on them.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from ssast_lab import audio, checkpoint, files
from ssast_lab.config import to_dict
from ssast_lab.measuring.linear import ByOneDNN
from ssast_lab.model import SPECIAL, SSAST, Classifier, Encoder, EncoderModel
from ssast_lab.predictive import APC, LATENT_HOP, REACH, Wav2Vec

FORMAT = "ssast-lab embeddings 1"  # count up when the code changes embeddings that weights and settings do not
POOLINGS = ("mean", "max", "cls", "statistics")
LONGEST_SAMPLES = 250_000  # 15.6 s: the longest sounds wav2vec 2.0 and HuBERT trained on (fairseq's max_sample_size)
PIPELINES = {"wav2vec2-base": "WAV2VEC2_BASE", "hubert-base": "HUBERT_BASE"}  # name -> in torchaudio.pipelines


class UpstreamError(ValueError):
    """There is no such upstream, or it cannot embed a sound. The message says why and what to do."""


class Upstream(Protocol):
    """A frozen model that turns sound into embeddings."""

    name: str
    key: str  # SHA-256 of weights and settings: upstreams with equal keys give equal embeddings, up to rounding
    layers: int
    rate: int  # Hz, of the waveforms that it embeds

    def to(self, device: torch.device | str) -> Self:
        """Moves the model to a device. Waveforms must then be on that device."""

    def embed(self, waveforms: Tensor, pooling: str) -> Tensor:
        """(B, S) float32 at its rate, all equally long -> (B, layers, D) float32, the first layer first.

        ``pooling`` over time (and frequency) is "mean", "max", "cls" (the mean of [CLS] and distillation) or "statistics"
        (mean and standard deviation, concatenated: D is doubled). :class:`UpstreamError` for any other."""


class Layered:
    """A model whose layers give tokens.

    A sound shorter than the model's window is taken at its own length, or zero-padded to the shortest length that the model
    accepts. A longer one is cut into windows without overlap. Its embedding is the mean over the windows, weighted by their
    lengths; a last window of less than a quarter is left out.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        tokens: Callable[[Tensor, Sequence[int]], list[Tensor]],
        *,
        layers: int,
        settings: dict[str, Any],
        window: int,
        least: int,
        step: int,
        overlap: int = 0,
        special: int = 0,
        bands: Sequence[tuple[float, float]] | None = None,
        rate: int = audio.SAMPLE_RATE,
    ) -> None:
        """``tokens``: (B, S) and some layers -> of each (B, N, D), of which the first ``special`` tokens belong to no place in the
        sound.
        ``window``: by how many samples each window starts after the one before. A window is ``overlap`` samples longer than
        that, since the last frame's analysis window reaches so far. ``least``: the shortest sound, in samples, which is what one
        token sees; ``step``: by how many samples the next token in time lies after it. ``bands``: (R, 2) Hz, what the tokens of
        one time see, the lowest first; None: all below half the ``rate``. N = R * T tokens run row by row, time fastest.
        ``settings`` (JSON): everything beside the weights that decides the embeddings; it goes into the key."""
        self.name, self.layers = name, layers
        self.module = module.eval().requires_grad_(False)
        self.window, self.least, self.overlap, self.step = window, least, overlap, step
        self.rate, self.bands = rate, tuple(bands or ((0.0, rate / 2),))
        self.key = _key(settings, module.state_dict())
        self._tokens, self._special = tokens, special

    def to(self, device: torch.device | str) -> Self:
        self.module.to(device)
        return self

    @torch.no_grad()
    def embed(self, waveforms: Tensor, pooling: str) -> Tensor:
        check_pooling(pooling)
        waveforms = _padded(waveforms, self.least)
        layers = range(self.layers)
        parts, lengths = [], []
        for start in range(0, max(waveforms.shape[1] - self.overlap, 1), self.window):
            length = min(self.window, waveforms.shape[1] - self.overlap - start)
            if start and (4 * length < self.window or length + self.overlap < self.least):
                break
            window = waveforms[:, start : start + self.window + self.overlap]
            parts.append(torch.stack([self.pool(tokens, pooling) for tokens in self._found(window, layers)], dim=1))
            lengths.append(length)
        return sum(part * (length / sum(lengths)) for part, length in zip(parts, lengths, strict=True))  # type: ignore[return-value]

    def tokens(self, waveforms: Tensor, layers: Sequence[int]) -> Tensor:
        """(B, S), no longer than a window -> (B, special + N, D): the mean over some layers."""
        found = [tokens for _, tokens in self.by_layer(waveforms, layers)]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)

    def by_layer(self, waveforms: Tensor, layers: Sequence[int]) -> list[tuple[int, Tensor]]:
        """(B, S), no longer than a window -> (layer, (B, special + N, D)) of each."""
        return [*zip(layers, self._found(_padded(waveforms, self.least), layers), strict=True)]

    def _found(self, waveforms: Tensor, layers: Sequence[int]) -> list[Tensor]:
        with ByOneDNN():
            return self._tokens(waveforms, layers)

    def places(self, tokens: Tensor) -> Tensor:
        """(B, special + N, D) -> (B, T, R, D)"""
        return tokens[:, self._special :].unflatten(1, (len(self.bands), -1)).transpose(1, 2)

    def pool(self, tokens: Tensor, pooling: str) -> Tensor:
        """(B, special + N, D) -> (B, D), or (B, 2 D) for statistics."""
        if pooling == "cls":
            if not self._special:
                raise UpstreamError(f"{self.name} has no [CLS] token: pool its mean, max or statistics.")
            return tokens[:, : self._special].mean(1)
        places = tokens[:, self._special :]
        if pooling == "max":
            return places.amax(1)
        mean = places.mean(1)
        return mean if pooling == "mean" else torch.cat((mean, places.std(1, correction=0)), dim=1)


class LogMel:
    """The baseline without a model: mean and standard deviation over time of each mel bin of the log-mel features, and of
    the differences between neighbouring frames. ``pooling`` changes nothing."""

    name, layers, rate = "logmel", 1, audio.SAMPLE_RATE

    def __init__(self) -> None:
        self.key = _key({"kind": "logmel", "audio": to_dict(audio.OFFICIAL)}, {})

    def to(self, device: torch.device | str) -> Self:
        return self

    @torch.no_grad()
    def embed(self, waveforms: Tensor, pooling: str) -> Tensor:
        check_pooling(pooling)
        fbank = audio.log_mel(_padded(waveforms, audio.OFFICIAL.samples_of(2)))
        statistics = [value for x in (fbank, fbank.diff(dim=1)) for value in (x.mean(1), x.std(1, correction=0))]
        return torch.cat(statistics, dim=1)[:, None]


def check_pooling(pooling: str) -> None:
    if pooling not in POOLINGS:
        raise UpstreamError(f"pooling is {', '.join(POOLINGS[:-1])} or {POOLINGS[-1]}, not {pooling!r}.")


def _padded(waveforms: Tensor, samples: int) -> Tensor:
    """Zero-padded at the end to so many samples, where they are shorter."""
    return nn.functional.pad(waveforms, (0, max(0, samples - waveforms.shape[1])))


def _key(settings: dict[str, Any], weights: Mapping[str, Tensor]) -> str:
    parts = [
        (f"{name} {value.dtype} {tuple(value.shape)}".encode(), data) for name, value, data in weight_bytes(weights)
    ]
    return files.sha256([FORMAT, settings], *(part for pair in parts for part in pair))


def weight_bytes(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, memoryview]]:
    """(name, tensor, its bytes) of weights, in the order of their names: what a checksum of weights is made of."""
    for name, value in sorted(weights.items()):
        yield name, value, value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _chosen(found: Sequence[Tensor], layers: Sequence[int]) -> list[Tensor]:
    return [found[layer] for layer in layers]


# --- kinds of models ----------------------------------------------------------------------------------------------


def of_encoder(name: str, encoder: Encoder) -> Layered:
    """The tokens after each block of our encoder. Those of the last layer have passed the final norm."""
    config, features = encoder.config, encoder.config.audio

    def tokens(waveforms: Tensor, layers: Sequence[int]) -> list[Tensor]:
        inner = [layer for layer in layers if layer != config.depth - 1]
        encoding = encoder(audio.log_mel(waveforms, features), layers=inner, depth=max(layers) + 1)
        return [encoding.layers.get(layer, encoding.tokens) for layer in layers]

    of_head = ("labels", "pooling")  # these do not change any token
    settings = {name: value for name, value in to_dict(config).items() if name not in of_head}
    return Layered(
        name,
        encoder,
        tokens,
        layers=config.depth,
        settings={"kind": "encoder", "config": settings},
        window=config.frames * features.hop,
        least=features.samples_of(config.patch[1]),
        step=config.stride[1] * features.hop,
        overlap=features.window - features.hop,
        rate=features.sample_rate,
        special=SPECIAL,
        bands=[config.grid.hertz(row * config.grid.columns) for row in range(config.grid.rows)],
    )


def of_torchaudio(name: str, model: nn.Module) -> Layered:
    """The output of each Transformer layer of a ``torchaudio.models.Wav2Vec2Model``: wav2vec 2.0 (Baevski et al., 2020),
    HuBERT (Hsu et al., 2021) and relatives. Sound goes in without normalisation, as in their training."""
    transformer: Any = model.get_submodule("encoder.transformer")
    least = step = 1
    convolutions: Any = model.get_submodule("feature_extractor.conv_layers")
    for convolution in reversed(convolutions):
        least, step = (least - 1) * convolution.stride + convolution.kernel_size, step * convolution.stride
    extract: Any = model.extract_features  # type: ignore[assignment]
    return Layered(
        name,
        model,
        lambda waveforms, layers: _chosen(extract(waveforms, num_layers=max(layers) + 1)[0], layers),
        layers=len(transformer.layers),
        settings={  # what the shapes of the weights do not show
            "kind": "torchaudio",
            "heads": [layer.attention.num_heads for layer in transformer.layers],
            "norm first": transformer.layer_norm_first,
            "strides": [convolution.stride for convolution in convolutions],
            "window": LONGEST_SAMPLES,
        },
        window=LONGEST_SAMPLES,
        least=max(least, audio.OFFICIAL.window),
        step=step,
    )


def of_apc(name: str, model: APC) -> Layered:
    """The output of each LSTM layer."""
    config, features = model.config, model.config.audio
    return Layered(
        name,
        model,
        lambda waveforms, layers: _chosen(model.hidden(audio.log_mel(waveforms, features)), layers),
        layers=config.depth,
        settings={"kind": "apc", "config": to_dict(config)},
        window=config.frames * features.hop,
        least=features.window,
        step=features.hop,
        overlap=features.window - features.hop,
        rate=features.sample_rate,
    )


def of_wav2vec(name: str, model: Wav2Vec) -> Layered:
    """The latent frames, then the context."""
    config = model.config
    return Layered(
        name,
        model,
        lambda waveforms, layers: _chosen(model.hidden(waveforms), layers),
        layers=2,
        settings={"kind": "wav2vec", "config": asdict(config)},
        window=config.frames * LATENT_HOP,
        least=REACH,
        step=LATENT_HOP,
        overlap=REACH - LATENT_HOP,
    )


# type of a loaded model -> the function that makes an upstream of it
MAKERS: dict[type[nn.Module], Callable[[str, Any], Layered]] = {
    SSAST: lambda name, model: of_encoder(name, model.encoder),
    Classifier: lambda name, model: of_encoder(name, model.encoder),
    EncoderModel: lambda name, model: of_encoder(name, model.encoder),
    APC: of_apc,
    Wav2Vec: of_wav2vec,
}


def upstream(name: str | os.PathLike[str], download: bool = False) -> Upstream:
    """An upstream by name, on the CPU:

    - whatever :func:`ssast_lab.checkpoint.load` reads: a built-in model, checkpoint folder, run folder or official ``.pth``,
      and with ``scratch:`` before it the same with random weights,
    - ``logmel``: statistics of the log-mel features, which a model should beat,
    - ``wav2vec2-base``, ``hubert-base``: torchaudio's published weights, downloaded only with ``download``.

    :class:`UpstreamError` where there is no such upstream, :class:`ssast_lab.checkpoint.CheckpointError` for a damaged model.
    """
    name = os.fspath(name)
    if name == "logmel":
        return LogMel()
    if name in PIPELINES:
        return of_torchaudio(name, _pipeline(name, download))
    return of_model(name, _loaded(name))


def of_model(name: str, model: nn.Module) -> Layered:
    """The upstream of a model that :func:`ssast_lab.checkpoint.load` has loaded."""
    if type(model) not in MAKERS:
        raise UpstreamError(f"A {type(model).__name__} gives no embeddings: load a model by ssast_lab.load.")
    return MAKERS[type(model)](name, model)


def _loaded(name: str) -> nn.Module:
    try:
        return checkpoint.load(name)
    except checkpoint.CheckpointError:
        model = name.rpartition(":")[2] if name.startswith("scratch") else name
        if os.path.exists(model) or model in checkpoint.builtin_models() or model.startswith("hf:"):
            raise  # it is there, and damaged; or it cannot be fetched
        models = ", ".join(checkpoint.builtin_models())
        raise UpstreamError(
            f"There is no upstream {name!r}: it is neither a file or folder, nor a built-in model ({models}), nor logmel, "
            f"scratch:NAME, {' or '.join(PIPELINES)}."
        ) from None


def _pipeline(name: str, download: bool) -> nn.Module:
    import torchaudio

    bundle = getattr(torchaudio.pipelines, PIPELINES[name])
    weights = Path(torch.hub.get_dir(), "checkpoints", Path(bundle._path).name)
    if not (weights.is_file() or download):
        raise UpstreamError(
            f"The weights of {name} (360 MB) are not on this machine: put them at {weights}, "
            "or download them with --download (download=True)."
        )
    try:
        return bundle.get_model(dl_kwargs={"weights_only": True})
    except Exception as error:  # of the network, the disk, the pickle or the model
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UpstreamError(
            f"The weights of {name} could not be loaded ({reason}). Their place is {weights}."
        ) from None
