"""A model for others: a folder that transformers, the official code, onnxruntime or plain PyTorch loads, with its card."""

import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ssast_lab.checkpoint import graph
from ssast_lab.checkpoint.by_name import describe, load, located
from ssast_lab.checkpoint.card import card
from ssast_lab.checkpoint.official import SETTINGS, to_official
from ssast_lab.checkpoint.own import CONFIG, GRAPH, Model, save
from ssast_lab.checkpoint.tensors import CheckpointError
from ssast_lab.checkpoint.to_huggingface import to_huggingface
from ssast_lab.config import SIZES, AudioConfig, ModelConfig, to_dict
from ssast_lab.files import to_json
from ssast_lab.model import SSAST, Classifier, EncoderModel

Target = Literal["ours", "transformers", "official", "onnx", "torch"]
CARD = "README.md"
LIBRARIES = {
    "ours": "ssast-lab",
    "transformers": "transformers",
    "official": "pytorch",
    "onnx": "onnx",
    "torch": "pytorch",
}


@dataclass(frozen=True)
class Exported:
    """An exported folder, and what is to be known of it."""

    path: Path
    notes: tuple[str, ...]  # what the format cannot hold, and what was done about it, in sentences
    measured: tuple[str, ...]  # the exported file beside the model


@dataclass(frozen=True)
class Made:
    """What one format is made of."""

    files: Mapping[str, bytes]
    usage: str
    notes: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()


def export(
    model: Model | str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: Target = "transformers",
    about: Mapping[str, Any] | None = None,
    takes: graph.Input = "features",
    int8: bool = False,
    pictures: Mapping[str, bytes] | None = None,
) -> Exported:
    """Writes a model (or what :func:`ssast_lab.checkpoint.load` reads under a name) into a new folder.

    ``to``: "ours" (float16, as the built-in models), "transformers", "official", "onnx" or "torch" (``torch.export``). ``about``
    (JSON) goes onto the card; by default it is what the checkpoint says of itself. ``takes`` is what a graph is given: normalised
    log-mel, or the "waveform", with the features in the graph. ``int8`` adds an ONNX file with weights of 8 bits. ``pictures``
    (name -> content) are put beside the card and shown on it.

    :class:`CheckpointError` for a model that the format cannot hold, with the reason; nothing is written then.
    """
    out = Path(out)
    if os.path.lexists(out):
        raise CheckpointError(f"{out} is there already: choose another folder.")
    if to not in LIBRARIES:
        raise CheckpointError(f"A model is exported to {', '.join(LIBRARIES)}, not {to!r}.")
    if (to not in ("onnx", "torch") and takes != "features") or (int8 and to != "onnx"):
        raise CheckpointError("Only onnx and torch have the features in the file (waveform), and only onnx has int8.")
    if isinstance(model, str | os.PathLike):
        about = about_of(model) if about is None else about
        model = load(model)
    about = about or {}
    if to == "ours":
        return Exported(save(model, out, about=dict(about), half=True), (), ())
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        made = _make(model, to, takes, int8, aside)
        page = card(model, about, LIBRARIES[to], made.usage, made.notes, made.measured, pictures or ())
        for name, content in {**made.files, CARD: page.encode(), **(pictures or {})}.items():
            (aside / name).write_bytes(content)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(out, made.notes, made.measured)


def about_of(name: str | os.PathLike[str]) -> dict[str, Any]:
    """What a model says of itself: a checkpoint's description; of a file only its name is known."""
    if os.path.isdir(located(name)):
        return describe(name)["about"]
    return {"from": Path(name).name.partition("?")[0]}


def _make(model: Model, to: Target, takes: graph.Input, int8: bool, folder: Path) -> Made:
    if to == "transformers":
        return _transformers(model)
    if to == "official":
        return _official(model)
    return _graph(model, to, takes, int8, folder)


def _transformers(model: Model) -> Made:
    files, notes = to_huggingface(model)
    remote = any("trust_remote_code=True." in note for note in notes)
    trust = ", trust_remote_code=True" if remote else ""
    config: ModelConfig = model.config  # type: ignore[assignment]
    if isinstance(model, Classifier):
        lines = ["from transformers import pipeline", f'classify = pipeline("audio-classification", model="FOLDER"{trust})',
                 'print(classify("bird.flac"))']  # fmt: skip
    else:
        samples = config.audio.samples_of(config.frames)
        lines = ["import numpy", "from transformers import AutoFeatureExtractor, AutoModel", f'model = AutoModel.from_pretrained("FOLDER"{trust})',
                 f'extract = AutoFeatureExtractor.from_pretrained("FOLDER"{trust})', *_wave(config.audio.sample_rate),
                 f"wave = numpy.resize(wave, max(len(wave), {samples}))  # a shorter sound is repeated: padding would be embedded, too",
                 'features = extract(wave - wave.mean(), sampling_rate=rate, return_tensors="pt")',
                 "embedding = model(**features).last_hidden_state[:, 2:].mean(1)"]  # fmt: skip
        notes.append(
            f"transformers' feature extractor pads every sound to {config.frames} frames and cuts what is longer, and the model takes no other "
            "length. Padding is embedded with the sound: of two seconds of sound the built-in models then give something else "
            "(a cosine of 0.5 to 0.9 with their embedding in SSAST Lab), and with the sound repeated nearly the same (0.98 and more). "
            "The onnx and torch exports take any length."
        )
    return Made(files, _code(lines), tuple(notes))


def _official(model: Model) -> Made:
    state, settings = to_official(model)
    content = io.BytesIO()
    torch.save(state, content)
    settings = {"file": "model.pth"} | settings
    config: ModelConfig = model.config  # type: ignore[assignment]
    notes = [
        f"The layout holds the weights alone; {SETTINGS} beside it says how the features are normalised"
        + (
            ", which length and stride they were made for, how they are pooled, and the labels."
            if isinstance(model, Classifier)
            else "."
        )
    ]
    sizes = [
        name for name, size in SIZES.items() if size == dict(width=config.width, depth=config.depth, heads=config.heads)
    ]
    if not config.audio.alike(AudioConfig(config.audio.mel_bins)):
        notes.append(
            f"The official code computes the features of whatever rate a file has, over all frequencies from 20 Hz on: give it files of "
            f"{config.audio.sample_rate} Hz, and the band from {config.audio.band[0]:g} to {config.audio.band[1]:g} Hz."
        )
    if not sizes or sizes == ["nano"]:
        notes.append(
            "The official code builds encoders of the sizes tiny, small and base; for this one its class has to be changed."
        )
    if config.patch[0] * config.patch[1] != 256 and isinstance(model, SSAST):
        notes.append(
            f"The official code's pretext heads draw 256 values a patch, and these {config.patch[0] * config.patch[1]}."
        )
    if isinstance(model, SSAST):
        lines = ["from models import ASTModel  # of the official code", "model = ASTModel(", '    pretrain_stage=False, load_pretrained_mdl_path="model.pth",',
                 f"    fshape={config.patch[0]}, tshape={config.patch[1]}, fstride={config.stride[0]}, tstride={config.stride[1]},",
                 f'    input_fdim={config.audio.mel_bins}, input_tdim={config.frames}, model_size="{_size(sizes)}", label_dim=35)']  # fmt: skip
    else:
        lines = [
            "import ssast_lab",
            'classifier = ssast_lab.load("model.pth")  # or load_state_dict in the official code',
        ]
    return Made({"model.pth": content.getvalue(), SETTINGS: _json(settings)}, _code(lines), tuple(notes))


def _size(sizes: list[str]) -> str:
    return next((size for size in sizes if size != "nano"), "of this width")


def _graph(model: Model, to: Target, takes: graph.Input, int8: bool, folder: Path) -> Made:
    file = folder / ("model.onnx" if to == "onnx" else "model.pt2")
    config: ModelConfig = model.config  # type: ignore[assignment]
    labels = list(config.labels) if isinstance(model, Classifier) else []
    if to == "onnx":
        told = {
            "labels": to_json(labels, ensure_ascii=False),
            "sample_rate": str(config.audio.sample_rate),
            "input": takes,
        }
        told |= {name: to_json(value) for name, value in asdict(config.audio).items() if name != "sample_rate"}
        made = graph.to_onnx(model, takes, file, told)
    else:
        made = graph.to_torch(model, takes, file)
    assert isinstance(model, SSAST | Classifier | EncoderModel)
    measured = [_measured(file.name, graph.compare(model, made, file), file)]
    if int8:
        small = folder / "model.int8.onnx"
        graph.to_int8(file, small)
        measured.append(_measured(small.name, graph.compare(model, made, small), small))
    unit = "frames" if takes == "features" else f"samples at {config.audio.sample_rate / 1000:g} kHz"
    length = (
        f"sounds of any length, which are cut or padded to {config.frames} frames as in training, so that the embedding is of the padding, too"
        if made.window
        else f"sounds of up to {made.largest:,} {unit}: longer ones are cut into windows by whoever calls it"
    )
    notes = [f"It takes any number of clips at a time, and {length}.", f"Its outputs are {', '.join(made.outputs)}."]
    if labels and not made.window:
        notes.append(
            f"The classifier was trained on {config.frames} frames, to which shorter sounds were padded by zeros before they were normalised: what "
            "it is given must be, too, for the same answers."
        )
    if isinstance(model, SSAST):
        notes.append(
            "It holds the encoder: the mask token and the pretext heads, which only pretraining needs, are not in it."
        )
    files = {CONFIG: _json(_description(model, made, takes))} | ({"labels.json": _json(labels)} if labels else {})
    return Made(files, _code(_calls(to, takes, made, labels, config)), tuple(notes), tuple(measured))


def _wave(rate: int) -> list[str]:
    return [
        "import soundfile",
        f'wave, rate = soundfile.read("bird.flac", dtype="float32")  # one channel, {rate / 1000:g} kHz',
    ]


def _input(to: Target, takes: graph.Input, made: graph.Graph, labels: list[str], config: ModelConfig) -> list[str]:
    """A file as what a graph takes, without our code."""
    most = "" if made.window else f", :{made.largest}"
    if takes == "waveform":
        tensor = "wave" if to == "onnx" else "torch.from_numpy(wave)"
        return [*_wave(config.audio.sample_rate), f"waveform = {tensor}[None{most}]"]
    low, high = config.audio.band
    trained = f"fbank = torch.nn.functional.pad(fbank, (0, 0, 0, {config.frames}))[:{config.frames}]  # as in training"
    return [
        *(["import torch"] if to == "onnx" else []),
        "import torchaudio",
        *_wave(config.audio.sample_rate),
        "fbank = torchaudio.compliance.kaldi.fbank(",
        '    torch.from_numpy(wave - wave.mean())[None], sample_frequency=rate, window_type="hanning",',
        f"    num_mel_bins={config.audio.mel_bins}, low_freq={low:g}, high_freq={high:g})",
        *([trained] if labels else []),
        f"features = ((fbank - {config.audio.mean!r}) / {2 * config.audio.std!r})[None{most}]{'.numpy()' if to == 'onnx' else ''}",
    ]


def _calls(to: Target, takes: graph.Input, made: graph.Graph, labels: list[str], config: ModelConfig) -> list[str]:
    rate = config.audio.sample_rate
    shape = f"(B, S) float32 at {rate / 1000:g} kHz" if takes == "waveform" else "(B, T, F) float32, normalised log-mel"
    given = _input(to, takes, made, labels, config)
    answer = ["print(labels[logits[0].argmax()])"] if labels else []
    read = ["import json", 'labels = json.load(open("labels.json", encoding="utf-8"))'] if labels else []
    if to == "onnx":
        return [*read, "import onnxruntime", 'session = onnxruntime.InferenceSession("model.onnx")', *given,
                f'{", ".join(made.outputs)} = session.run(None, {{"{takes}": {takes}}})  # {shape}', *answer]  # fmt: skip
    return [*read, "import torch", 'model = torch.export.load("model.pt2").module()', *given,
            f"{', '.join(made.outputs)} = model({takes})  # {shape}", *answer]  # fmt: skip


def _measured(name: str, found: graph.Comparison, file: Path) -> str:
    differences = ", ".join(f"{output} {value:.1e}" for output, value in found.outputs.items())
    agree = "" if found.agree is None else f"; the same label for {found.agree:.0%} of the sounds"
    return (
        f"{name}, {file.stat().st_size / 1e6:.1f} MB: on the built-in sounds the largest differences are {differences}, the least cosine "
        f"of two embeddings {found.cosine:.6f}{agree}; {1000 * found.seconds:.0f} ms a sound, the model in PyTorch "
        f"{1000 * found.model_seconds:.0f} ms."
    )


def _description(model: Model, made: graph.Graph, takes: graph.Input) -> dict[str, Any]:
    return {
        "format": GRAPH,
        "input": takes,
        "outputs": made.outputs,
        "largest": made.largest,
        "model": to_dict(model.config),
    }


def _code(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _json(value: Any) -> bytes:
    return (to_json(value, indent=1, ensure_ascii=False) + "\n").encode()
