"""Upstreams: whatever turns sound into embeddings, all behind one interface, and a cache of what they gave.

Axes: C clips, B clips of a batch, S samples at 16 kHz, T frames, F mel bins, N tokens, D width. An upstream is frozen: nothing
here trains. The vocabulary is that of SUPERB (Yang et al., Interspeech 2021): an upstream gives representations, layer by
layer, and something small learns on top of them.
"""

import hashlib
import json
import os
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ssast_lab import audio, checkpoint
from ssast_lab.config import ConfigError, model_config
from ssast_lab.data import Clip
from ssast_lab.model import SPECIAL, SSAST, Classifier, Encoder
from ssast_lab.predictive import APC, HOP, REACH, Contrastive

FORMAT = "ssast-lab embeddings 1"  # whatever changes embeddings without changing weights changes this number
POOLINGS = ("mean", "max", "cls", "statistics")
AT_ONCE = {"cpu": 80, "cuda": 240}  # seconds of sound that go through a model together: bounds its memory
LONGEST = 250_000  # samples, 15.6 s: what wav2vec 2.0 and HuBERT met at most in training (fairseq's max_sample_size)
Item = TypeVar("Item")
Result = TypeVar("Result")
PIPELINES = {"wav2vec2-base": "WAV2VEC2_BASE", "hubert-base": "HUBERT_BASE"}  # name -> in torchaudio.pipelines


class UpstreamError(ValueError):
    """An upstream that cannot be had, or a sound that it cannot embed: the message says why and what to do."""


class Upstream(Protocol):
    """What turns sound into embeddings."""

    name: str
    key: str  # sha256 of weights and settings: embeddings of equal keys are equal, up to rounding
    layers: int

    def to(self, device: torch.device | str) -> Self:
        """Moves it to a device, on which it then expects its sounds."""

    def embed(self, waveforms: Tensor, pooling: str) -> Tensor:
        """(B, S) float32 at 16 kHz, all equally long -> (B, layers, D) float32, the first layer first.

        ``pooling`` over time (and frequency) is "mean", "max", "cls" ([CLS] and distillation, their mean) or "statistics"
        (mean and standard deviation beside each other, so that D is twice as much)."""


class Layered:
    """A model that makes layers of tokens out of sound.

    A sound that is shorter than the model's window is taken at its own length; one that is shorter than the least that the
    model can hear is zero-padded to that. A longer one is cut into windows that follow each other without overlap. The
    embedding is the mean over the windows, each weighted by its length; a last window of less than a quarter is left out.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        tokens: Callable[[Tensor], list[Tensor]],
        *,
        layers: int,
        settings: dict[str, Any],
        window: int,
        least: int,
        overlap: int = 0,
        special: int = 0,
    ) -> None:
        """``tokens`` (B, S) -> for each layer (B, N, D), of which the first ``special`` stand for no place in the sound.
        ``window`` samples are new in each window; it looks at ``overlap`` more, as analysis windows reach that far.
        ``settings`` (JSON) are all that matters beside the module's weights."""
        self.name, self.layers = name, layers
        self.module = module.eval().requires_grad_(False)
        self.window, self.least, self.overlap = window, least, overlap
        self.key = _key(settings, module.state_dict())
        self._tokens, self._special = tokens, special

    def to(self, device: torch.device | str) -> Self:
        self.module.to(device)
        return self

    @torch.no_grad()
    def embed(self, waveforms: Tensor, pooling: str) -> Tensor:
        _check_pooling(pooling)
        waveforms = _at_least(waveforms, self.least)
        parts, lengths = [], []
        for start in range(0, max(waveforms.shape[1] - self.overlap, 1), self.window):
            fresh = min(self.window, waveforms.shape[1] - self.overlap - start)
            if start and (4 * fresh < self.window or fresh + self.overlap < self.least):
                break
            piece = waveforms[:, start : start + self.window + self.overlap]
            parts.append(torch.stack([self._pooled(tokens, pooling) for tokens in self._tokens(piece)], dim=1))
            lengths.append(fresh)
        return sum(part * (length / sum(lengths)) for part, length in zip(parts, lengths, strict=True))  # type: ignore[return-value]

    def _pooled(self, tokens: Tensor, pooling: str) -> Tensor:
        """(B, N, D) -> (B, D), or (B, 2 D) of statistics."""
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
    """The floor below every model: of each mel bin of the log-mel features, the mean and standard deviation over time, and
    the same of the differences between one frame and the next. These four are its only pooling, whatever is asked for."""

    name, layers = "logmel", 1

    def __init__(self) -> None:
        self.key = _key({"kind": "logmel", "audio": asdict(audio.OFFICIAL)}, {})

    def to(self, device: torch.device | str) -> Self:
        return self

    @torch.no_grad()
    def embed(self, waveforms: Tensor, pooling: str) -> Tensor:
        _check_pooling(pooling)
        fbank = audio.log_mel(_at_least(waveforms, audio.samples_of(2)))
        change = fbank.diff(dim=1)
        found = [figure for x in (fbank, change) for figure in (x.mean(1), x.std(1, correction=0))]
        return torch.cat(found, dim=1)[:, None]


def _check_pooling(pooling: str) -> None:
    if pooling not in POOLINGS:
        raise UpstreamError(f"pooling is {', '.join(POOLINGS[:-1])} or {POOLINGS[-1]}, not {pooling!r}.")


def _at_least(waveforms: Tensor, samples: int) -> Tensor:
    return nn.functional.pad(waveforms, (0, max(0, samples - waveforms.shape[1])))


def _key(settings: dict[str, Any], weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, settings], sort_keys=True).encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- kinds of models ----------------------------------------------------------------------------------------------


def of_encoder(name: str, encoder: Encoder) -> Layered:
    """The tokens after each block of our encoder; after the last one, they have gone through the last norm."""
    config = encoder.config
    inner = range(config.depth - 1)

    def tokens(waveforms: Tensor) -> list[Tensor]:
        found = encoder(audio.log_mel(waveforms, config.audio), layers=inner)
        return [*(found.layers[layer] for layer in inner), found.tokens]

    config_of_head = ("labels", "pooling")  # which change no token
    settings = {name: value for name, value in asdict(config).items() if name not in config_of_head}
    return Layered(
        name,
        encoder,
        tokens,
        layers=config.depth,
        settings={"kind": "encoder", "config": settings},
        window=config.frames * audio.HOP,
        least=audio.samples_of(config.patch[1]),
        overlap=audio.WINDOW - audio.HOP,
        special=SPECIAL,
    )


def of_torchaudio(name: str, model: nn.Module) -> Layered:
    """The output of each Transformer layer of a ``torchaudio.models.Wav2Vec2Model``: wav2vec 2.0 (Baevski et al., 2020),
    HuBERT (Hsu et al., 2021) and their kin. Sound goes in as it is, as these were trained."""
    transformer: Any = model.get_submodule("encoder.transformer")
    least = 1
    convolutions: Any = model.get_submodule("feature_extractor.conv_layers")
    for convolution in reversed(convolutions):
        least = (least - 1) * convolution.stride + convolution.kernel_size
    extract: Any = model.extract_features  # type: ignore[assignment]
    return Layered(
        name,
        model,
        lambda waveforms: extract(waveforms)[0],
        layers=len(transformer.layers),
        settings={  # all that the shapes of the weights do not show
            "kind": "torchaudio",
            "heads": [layer.attention.num_heads for layer in transformer.layers],
            "norm first": transformer.layer_norm_first,
            "strides": [convolution.stride for convolution in convolutions],
            "window": LONGEST,
        },
        window=LONGEST,
        least=max(least, audio.WINDOW),
    )


def of_apc(name: str, model: APC) -> Layered:
    """The output of each LSTM layer."""
    config = model.config
    return Layered(
        name,
        model,
        lambda waveforms: model.hidden(audio.log_mel(waveforms, config.audio)),
        layers=config.depth,
        settings={"kind": "apc", "config": asdict(config)},
        window=config.frames * audio.HOP,
        least=audio.WINDOW,
        overlap=audio.WINDOW - audio.HOP,
    )


def of_contrastive(name: str, model: Contrastive) -> Layered:
    """The latent frames, then the context."""
    config = model.config
    return Layered(
        name,
        model,
        lambda waveforms: [*model.hidden(waveforms)],
        layers=2,
        settings={"kind": "wav2vec", "config": asdict(config)},
        window=config.frames * HOP,
        least=REACH,
        overlap=REACH - HOP,
    )


# A loaded model of which type becomes an upstream by which function.
KINDS: dict[type[nn.Module], Callable[[str, Any], Layered]] = {
    SSAST: lambda name, model: of_encoder(name, model.encoder),
    Classifier: lambda name, model: of_encoder(name, model.encoder),
    APC: of_apc,
    Contrastive: of_contrastive,
}


def upstream(name: str | os.PathLike[str], download: bool = False) -> Upstream:
    """An upstream by name, on the CPU:

    - a built-in model, checkpoint folder, run folder or official ``.pth`` (whatever :func:`ssast_lab.checkpoint.load` reads),
    - ``scratch:NAME``: the same with random weights, where NAME may also be a preset such as ``tiny-patch``;
      ``scratch@1:NAME`` is drawn by the seed 1 rather than 0,
    - ``logmel``: statistics of the log-mel features, the floor that a model must rise above,
    - ``wav2vec2-base``, ``hubert-base``: torchaudio's published weights, which are fetched only with ``download``.

    :class:`UpstreamError` where there is no such upstream, :class:`ssast_lab.checkpoint.CheckpointError` for a damaged model.
    """
    name = os.fspath(name)
    if name == "logmel":
        return LogMel()
    if name in PIPELINES:
        return of_torchaudio(name, _pipeline(name, download))
    scratch = re.fullmatch(r"scratch(?:@(\d{1,9}))?:(.+)", name)
    model = _random(scratch[2], int(scratch[1] or 0)) if scratch else _loaded(name)
    return KINDS[type(model)](name, model)


def _loaded(name: str) -> nn.Module:
    try:
        return checkpoint.load(name)
    except checkpoint.CheckpointError:
        if os.path.exists(name) or name in checkpoint.builtin_models():
            raise
        models = ", ".join(checkpoint.builtin_models())
        raise UpstreamError(
            f"There is no upstream {name!r}: it is neither a file or folder, nor a built-in model ({models}), nor logmel, "
            f"scratch:NAME, {' or '.join(PIPELINES)}."
        ) from None


def _random(like: str, seed: int) -> nn.Module:
    """A model of this shape as it is before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if like not in checkpoint.builtin_models():
            try:
                return SSAST(model_config(like))
            except ConfigError:
                pass  # no preset: a checkpoint
        model: Any = _loaded(like)
        torch.manual_seed(seed)
        return type(model)(model.config)


def _pipeline(name: str, download: bool) -> nn.Module:
    import torchaudio

    bundle = getattr(torchaudio.pipelines, PIPELINES[name])
    weights = Path(torch.hub.get_dir(), "checkpoints", Path(bundle._path).name)
    if not (weights.is_file() or download):
        raise UpstreamError(
            f"The weights of {name} (360 MB) are not on this machine: put them at {weights}, "
            "or ask for their download with --download (download=True)."
        )
    try:
        return bundle.get_model(dl_kwargs={"weights_only": True})
    except Exception as error:  # of the network, the disk, the pickle or the model
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UpstreamError(f"The weights of {name} could not be had ({reason}): they belong at {weights}.") from None


# --- clips --------------------------------------------------------------------------------------------------------


def embed_clips(
    upstream: Upstream,
    clips: Sequence[Clip],
    pooling: str = "mean",
    cache: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> np.ndarray:
    """(C, layers, D) float32: the embeddings of whole clips. ``device`` None is CUDA where there is one.

    With a ``cache`` folder, what was computed once is read from it: it belongs to the upstream's key, the pooling and the
    clip's content, wherever the file lies and whatever it is called. What was computed before an error or Ctrl-C is kept.

    Equally long clips go through the model together. So that there are many of them, a clip's end is cut to a whole number
    of steps of at most 16 frames, 0.16 s, and at most a sixteenth of the clip (:func:`trimmed`).
    :class:`UpstreamError` names a clip that cannot be read, before anything is computed unless only decoding shows it.
    """
    _check_pooling(pooling)
    workers = max(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        digests = list(pool.map(_digest, clips))
        file = None if cache is None else Path(cache) / f"{upstream.key[:32]}-{pooling}.safetensors"
        known = {} if file is None else _read_cache(file)
        todo = {digest: clip for digest, clip in zip(digests, clips, strict=True) if digest not in known}
        list(pool.map(_check, todo.values()))
        fresh: dict[bytes, np.ndarray] = {}
        try:
            device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            steps = _embeddings(upstream, todo, pooling, device, pool, 2 * workers)
            with tqdm(total=len(todo), desc=f"embedding by {upstream.name}", disable=not (progress and todo)) as bar:
                for digest, embedding in steps:
                    fresh[digest] = embedding
                    bar.update()
        finally:
            if file is not None and fresh:
                _write_cache(file, fresh)
    known |= fresh
    return np.stack([known[digest] for digest in digests]) if digests else np.empty((0, upstream.layers, 0), np.float32)


def trimmed(samples: int) -> int:
    """How many samples of a clip are embedded: those of a number of frames that a power of two divides, 16 at most and a
    sixteenth of them at most: sixteen lengths from any duration to its double, and one every 0.16 s beyond 5 s."""
    frames = audio.frames_of(samples)
    step = min(16, 1 << max(0, (frames // 16).bit_length() - 1))
    return audio.samples_of(frames // step * step)


def _embeddings(
    upstream: Upstream,
    clips: dict[bytes, Clip],
    pooling: str,
    device: torch.device,
    pool: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[tuple[bytes, np.ndarray]]:
    upstream = upstream.to(device)
    room = AT_ONCE.get(device.type, AT_ONCE["cpu"]) * audio.SAMPLE_RATE
    waiting: dict[int, list[tuple[bytes, Tensor]]] = {}  # by length

    def embedded(alike: list[tuple[bytes, Tensor]]) -> Iterator[tuple[bytes, np.ndarray]]:
        batch = torch.stack([waveform for _, waveform in alike]).to(device)
        found = upstream.embed(batch, pooling).float().cpu().numpy()
        yield from ((digest, row) for (digest, _), row in zip(alike, found, strict=True))

    for digest, waveform in zip(clips, _ahead(pool, _decode, clips.values(), ahead), strict=True):
        samples = len(waveform)
        alike = waiting.setdefault(samples, [])
        alike.append((digest, waveform))
        if (len(alike) + 1) * samples > room:
            yield from embedded(waiting.pop(samples))
    for alike in waiting.values():
        yield from embedded(alike)


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """``map`` in order, by threads that are at most ``count`` items ahead of whoever takes the results."""
    rest = iter(items)
    futures: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(rest, count))
    try:
        while futures:
            result = futures.popleft().result()
            futures.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:
        for future in futures:
            future.cancel()


def _decode(clip: Clip) -> Tensor:
    """(S,) trimmed"""
    try:
        waveform = audio.load_waveform(clip.open())
    except (audio.AudioError, OSError) as error:
        raise _unreadable(clip, error) from None
    return waveform[: trimmed(len(waveform))]


def _check(clip: Clip) -> None:
    try:
        audio.info(clip.open())
    except (audio.AudioError, OSError) as error:
        raise _unreadable(clip, error) from None


def _digest(clip: Clip) -> bytes:
    try:
        source = clip.open()
        content = Path(source).read_bytes() if isinstance(source, str) else source.getbuffer()
    except OSError as error:
        raise _unreadable(clip, error) from None
    return hashlib.sha256(content).digest()


def _unreadable(clip: Clip, error: Exception) -> UpstreamError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).rstrip(".")
    return UpstreamError(f"The clip {clip.name} cannot be embedded: {reason}.")


# --- the cache: one file of (clip's sha256, embedding) for each upstream and pooling --------------------------------


def _read_cache(file: Path) -> dict[bytes, np.ndarray]:
    """What a file holds; nothing where there is none, or it is damaged: it is only a cache."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(file.read_bytes())
        digests, embeddings = found["sha256"], found["embeddings"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}
    whole = digests.dtype == np.uint8 and digests.shape == (len(embeddings), 32)
    if not (whole and embeddings.dtype == np.float32 and embeddings.ndim == 3 and np.isfinite(embeddings).all()):
        return {}
    return {digest.tobytes(): embedding for digest, embedding in zip(digests, embeddings, strict=True)}


def _write_cache(file: Path, fresh: dict[bytes, np.ndarray]) -> None:
    """Adds embeddings to a file, written aside and renamed. It is read again just before, so that what another process has
    added since stays; two that rename at the same moment lose the one's additions, which are computed again, never the file."""
    from safetensors.numpy import save

    content = _read_cache(file) | fresh
    digests = np.frombuffer(b"".join(content), dtype=np.uint8).reshape(-1, 32)
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(save({"sha256": digests, "embeddings": np.stack(list(content.values()))}))
        aside.replace(file)
    except OSError as error:
        raise UpstreamError(f"The cache {file} cannot be written: {error.strerror or error}.") from None
    finally:
        aside.unlink(missing_ok=True)
