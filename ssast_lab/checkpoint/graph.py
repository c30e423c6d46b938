"""A model as a graph that needs none of our code: ONNX, or what ``torch.export`` keeps.

It has any number of clips in a batch, and any length up to the model's window (a classifier that hears waveforms takes any: it cuts
and pads them as it was trained). With the features in the graph, one file goes from a waveform to its embedding or label.

Axes: B batch, S samples at the model's rate, T frames, F mel bins, N patches, K tokens, D width, L labels.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssast_lab import audio
from ssast_lab.audio.features import PREEMPHASIS, mel_filters, window
from ssast_lab.checkpoint.tensors import CheckpointError
from ssast_lab.config import AudioConfig
from ssast_lab.model import SPECIAL, SSAST, Classifier, EncoderModel

Input = Literal["features", "waveform"]
OPSET = 20  # of ONNX, which has the discrete Fourier transform since 17
CLIPS = 8  # built-in sounds by which a graph is compared with its model


@dataclass(frozen=True)
class Graph:
    """What a graph takes and gives."""

    input: Input
    outputs: tuple[str, ...]
    largest: int  # frames, or samples
    window: bool  # whether it cuts and pads to that itself


class Features(nn.Module):
    """(B, S) -> (B, T, F): :func:`ssast_lab.audio.log_mel` in operations that a graph can have."""

    def __init__(self, config: AudioConfig, frames: int | None = None) -> None:
        """``frames``: cut, or pad with zeros before they are normalised, to so many."""
        super().__init__()
        self.config, self.frames = config, frames
        self.shape: Tensor
        self.filters: Tensor
        cpu = torch.device("cpu")
        self.register_buffer("shape", window(cpu, config).clone())
        self.register_buffer("filters", mel_filters(config, cpu, torch.float32).clone())

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, S) -> (B, T, F)"""
        if self.frames is None:
            return self._normalised(self._fbank(waveform - waveform.mean(-1, keepdim=True)))
        samples, size = self.config.samples_of(self.frames), waveform.shape[-1]
        place = torch.arange(samples)
        own = (place < size).float()
        waveform = F.pad(waveform, (0, samples))[:, :samples]  # never longer, nor shorter, whatever its length
        waveform = waveform - waveform.sum(-1, keepdim=True) / own.sum()
        heard = place[: self.frames] * self.config.hop + self.config.window <= size
        return self._normalised(torch.where(heard[:, None], self._fbank(waveform), 0.0))

    def _fbank(self, waveform: Tensor) -> Tensor:
        frames = waveform.unfold(-1, self.config.window, self.config.hop)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat((frames[..., :1], frames[..., :-1]), dim=-1)
        spectrum = torch.view_as_real(torch.fft.rfft((frames + -PREEMPHASIS * before) * self.shape, n=self.config.fft))
        power = spectrum.square().sum(-1)
        return (power @ self.filters).clamp(min=audio.EPSILON).log()

    def _normalised(self, fbank: Tensor) -> Tensor:
        return (fbank - self.config.mean) / (2 * self.config.std)


class Traceable(nn.Module):
    """A model in operations that a graph can have with any batch and length."""

    def __init__(self, model: SSAST | Classifier | EncoderModel, takes: Input) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.head = nn.Sequential(model.norm, model.linear) if isinstance(model, Classifier) else None
        self.pooling = model.config.pooling
        fixed = model.config.frames if isinstance(model, Classifier) else None
        self.features = Features(model.config.audio, fixed) if takes == "waveform" else nn.Identity()
        self.graph = Graph(
            takes,
            (("logits",) if self.head is not None else ()) + ("embedding", "tokens"),
            model.config.frames if takes == "features" else model.config.audio.samples_of(model.config.frames),
            takes == "waveform" and fixed is not None,
        )

    def forward(self, sound: Tensor) -> tuple[Tensor, ...]:
        """(B, T, F) or (B, S) -> logits (B, L) of a classifier, the mean over the patches (B, D), all tokens (B, K, D)."""
        tokens = self._tokens(self.features(sound))
        embedding = tokens[:, SPECIAL:].mean(1)
        if self.head is None:
            return embedding, tokens
        pooled = embedding if self.pooling == "mean" else tokens[:, :SPECIAL].mean(1)
        return self.head(pooled), embedding, tokens

    def _tokens(self, fbank: Tensor) -> Tensor:
        """As :class:`ssast_lab.model.Encoder`, where a shorter sound has the middle of the positions."""
        encoder, grid = self.encoder, self.encoder.grid
        kernel = encoder.patch_embedding.weight.unflatten(1, (1, *grid.shape))
        patches = F.conv2d(fbank.transpose(1, 2)[:, None], kernel, encoder.patch_embedding.bias, stride=grid.stride)
        columns = patches.shape[-1]
        table = encoder.positions[0, SPECIAL:].unflatten(0, (grid.rows, grid.columns))
        middle = table.index_select(1, torch.arange(columns) + (grid.columns // 2 - columns // 2))
        special = torch.cat((encoder.cls_token, encoder.distillation_token), dim=1) + encoder.positions[:, :SPECIAL]
        x = patches.flatten(2).transpose(1, 2) + middle.flatten(0, 1)
        if not encoder.config.distillation:
            special = special[:, :1]
        x = torch.cat((special.expand(x.shape[0], -1, -1), x), dim=1)
        for block in encoder.blocks:
            x = block(x)
        x = encoder.norm(x)
        return x if encoder.config.distillation else torch.cat((x[:, :1], x), dim=1)


def traced(model: nn.Module, takes: Input = "features") -> tuple[torch.export.ExportedProgram, Graph]:
    """What ``torch.export`` makes of a model with our encoder; :class:`CheckpointError` for others."""
    if not isinstance(model, SSAST | Classifier | EncoderModel):
        raise CheckpointError(
            f"Only models with SSAST's encoder can be exported as graphs, not {type(model).__name__}."
        )
    with torch.no_grad():
        whole = Traceable(model.cpu().eval(), takes).eval()
        config, features, graph = model.config, model.config.audio, whole.graph
        usual = min(config.frames, max(config.patch[1] + config.stride[1], 3 * config.frames // 4))
        least = config.patch[1]
        size, smallest = (
            (usual, least) if takes == "features" else (features.samples_of(usual), features.samples_of(least))
        )
        shape = (2, size, config.audio.mel_bins) if takes == "features" else (2, size)
        sizes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
        if smallest < graph.largest:
            most = None if graph.window else graph.largest
            sizes[1] = torch.export.Dim("frames" if takes == "features" else "samples", min=smallest, max=most)
        with _any_size(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about itself
            program = torch.export.export(
                whole, (torch.zeros(shape),), dynamic_shapes=(sizes,), prefer_deferred_runtime_asserts_over_guards=True
            )
    return program, graph


@contextmanager
def _any_size() -> Iterator[None]:
    """Sizes are symbols, of which nothing is concluded from the example."""
    import torch.fx.experimental._config as settings

    with settings.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        yield


def to_torch(model: nn.Module, takes: Input, file: Path) -> Graph:
    """Writes what ``torch.export.load`` reads."""
    program, graph = traced(model, takes)
    torch.export.save(program, file)
    return graph


def to_onnx(model: nn.Module, takes: Input, file: Path, about: dict[str, str]) -> Graph:
    """Writes an ONNX file, with ``about`` in it."""
    need("onnx", "onnxscript", "onnxruntime")
    program, graph = traced(model, takes)
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=[takes],
            output_names=[*graph.outputs],
            opset_version=OPSET,
            verbose=False,
        )
    assert made is not None
    made.model.metadata_props.update(about)
    made.save(str(file), external_data=False)
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that it does not need."""
    import logging

    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def to_int8(file: Path, out: Path) -> None:
    """Quantises the weights of an ONNX file to 8 bits; activations are quantised as they come (dynamic quantisation). The mel
    filters, whose energies span ten powers of ten, stay as they are, and so does the patch embedding, a convolution."""
    need("onnx", "onnxruntime")
    import logging

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(file).graph.node
    spared = [node.name for node in nodes if any(name.startswith("features.") for name in node.input)]
    logging.disable(logging.WARNING)  # of the quantiser, on what it is told to do
    try:
        quantize_dynamic(file, out, op_types_to_quantize=["MatMul", "Gemm"], nodes_to_exclude=spared,
                         weight_type=QuantType.QInt8)  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)


def need(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise CheckpointError(
            f"Exporting to ONNX needs {' and '.join(missing)}: install the extra with pip install 'ssast-lab[onnx]'."
        )


@dataclass(frozen=True)
class Comparison:
    """A graph against the model that it was made of, on the built-in sounds."""

    outputs: dict[str, float]  # name -> the largest difference of any number
    cosine: float  # the least, of the embeddings
    agree: float | None  # share of the sounds that have the same highest label; None without labels
    seconds: float  # one sound through the graph, the median
    model_seconds: float  # and through the model in PyTorch


def sounds(model: SSAST | Classifier | EncoderModel, takes: Input, graph: Graph) -> list[Tensor]:
    """(1, S) or (1, T, F) each: the built-in sounds, as long as the graph takes them."""
    features = model.config.audio
    most = features.samples_of(model.config.frames)
    files = [sound["path"] for sound in audio.builtin_sounds().values()][:CLIPS]
    waves = [audio.load_waveform(file, to_rate=features.sample_rate)[None, :most] for file in files]
    if takes == "waveform":
        return waves
    frames = model.config.frames if isinstance(model, Classifier) else None
    return [audio.log_mel(wave, features, frames) for wave in waves]


@torch.no_grad()
def compare(model: SSAST | Classifier | EncoderModel, graph: Graph, file: Path) -> Comparison:
    """An ONNX file or one of ``torch.export`` beside the model itself."""
    run = _onnx_runner(file) if file.suffix == ".onnx" else _torch_runner(file)
    worst = dict.fromkeys(graph.outputs, 0.0)
    cosines, agree, times, own = [], [], [], []
    for sound in sounds(model, graph.input, graph):
        start = time.perf_counter()
        expected = dict(zip(graph.outputs, reference(model, graph, sound), strict=True))
        own.append(time.perf_counter() - start)
        run(sound)
        start = time.perf_counter()
        given = dict(zip(graph.outputs, run(sound), strict=True))
        times.append(time.perf_counter() - start)
        for name, value in expected.items():
            worst[name] = max(worst[name], float(np.abs(value.numpy() - given[name]).max()))
        cosines.append(float(F.cosine_similarity(expected["embedding"], torch.from_numpy(given["embedding"])).min()))
        if "logits" in expected:
            agree.append(int(expected["logits"].argmax()) == int(given["logits"].argmax()))
    share = sum(agree) / len(agree) if agree else None
    return Comparison(worst, min(cosines), share, float(np.median(times)), float(np.median(own)))


def reference(model: SSAST | Classifier | EncoderModel, graph: Graph, sound: Tensor) -> tuple[Tensor, ...]:
    """The graph's outputs as the model itself gives them."""
    if graph.input == "waveform":
        sound = audio.log_mel(sound, model.config.audio, model.config.frames if graph.window else None)
    tokens = model.encoder(sound).tokens
    logits = (model.linear(model.norm(model.pool(tokens))),) if isinstance(model, Classifier) else ()
    return (*logits, tokens[:, SPECIAL:].mean(1), tokens)


def _onnx_runner(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda sound: session.run(None, {name: sound.numpy()})


def _torch_runner(file: Path) -> Any:
    module = torch.export.load(file).module()
    return lambda sound: [value.numpy() for value in module(sound)]
