"""Our models as folders of Hugging Face's transformers: the inverse of :mod:`ssast_lab.checkpoint.huggingface`.

The names are those of transformers 4, which 5 reads as well. What its ``ASTModel`` and ``ASTForAudioClassification`` compute
is written for them; what they cannot is carried by the classes of ``modeling_ssast.py``, which goes into the folder.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ssast_lab.checkpoint.huggingface import FEATURES, HEAD, MODEL_TYPE, OURS, PREFIX, WRAPPED, names_of
from ssast_lab.checkpoint.official import NO_DISTILLATION
from ssast_lab.checkpoint.tensors import CheckpointError
from ssast_lab.config import AudioConfig, ModelConfig
from ssast_lab.files import to_json
from ssast_lab.model import SSAST, Classifier, EncoderModel

WRAPPER = "modeling_ssast"
_CLASSES: dict[type, str] = {SSAST: "ForPreTraining", Classifier: "ForAudioClassification", EncoderModel: "Model"}


def to_huggingface(model: nn.Module) -> tuple[dict[str, bytes], list[str]]:
    """File name -> content of the folder, and what is to be known of it, in sentences; :class:`CheckpointError` for a model that
    has not our encoder."""
    kind: Any = next((cls for cls in _CLASSES if isinstance(model, cls)), None)
    if kind is None:
        raise CheckpointError(
            f"transformers has no model like {type(model).__name__}: only SSAST's encoder fits its own."
        )
    config: ModelConfig = model.config  # type: ignore[assignment]
    if not config.distillation:
        raise CheckpointError(NO_DISTILLATION.format("transformers' AST"))
    reasons = _reasons(kind, config)
    wrapped = bool(reasons)
    official = AudioConfig()
    narrow = config.audio.band != replace(official, sample_rate=config.audio.sample_rate).band
    files = {
        "model.safetensors": to_safetensors(_weights(model, kind, wrapped), metadata={"format": "pt"}),
        "config.json": _json(_description(kind, config, wrapped)),
        FEATURES: _json(_features(config, narrow)),
    }
    notes = []
    if wrapped or narrow or kind is SSAST:
        files[f"{WRAPPER}.py"] = Path(__file__).with_name(f"{WRAPPER}.txt").read_bytes()
    if wrapped:
        notes.append(
            f"transformers' own classes cannot hold this model: {' and '.join(reasons)}. {WRAPPER}.py in the folder carries it "
            f"(SSAST{_CLASSES[kind]}): load it with trust_remote_code=True."
        )
    elif kind is SSAST:
        notes.append(
            "ASTModel loads the encoder and leaves the mask token and both pretext heads, for which it has no place: "
            f"AutoModelForPreTraining with trust_remote_code=True loads them too ({WRAPPER}.py)."
        )
    if narrow:
        notes.append(
            f"ASTFeatureExtractor hears everything from 20 Hz to half the rate, this model {config.audio.band[0]:g} to "
            f"{config.audio.band[1]:g} Hz: SSASTFeatureExtractor in {WRAPPER}.py carries that, load it with trust_remote_code=True."
        )
    if config.audio.sample_rate != official.sample_rate:
        notes.append(
            f"Its features are of {config.audio.sample_rate} Hz, for which transformers needs torchaudio: without it, "
            "ASTFeatureExtractor knows windows of 16 kHz only."
        )
    if kind is not Classifier:
        notes.append(
            "ASTModel's pooler_output is the mean of [CLS] and distillation, which SSAST does not train: take the mean of "
            "last_hidden_state[:, 2:], as SSAST Lab does."
        )
        seconds = config.audio.seconds_of(config.frames)
        notes.append(
            f"ASTFeatureExtractor pads what is shorter than {seconds:.1f} s with silence, which counts in that mean: SSAST Lab gives the model "
            "the sound alone, so that its embeddings of short clips are others."
        )
    return files, notes


def _reasons(kind: type, config: ModelConfig) -> list[str]:
    """Why transformers' own classes cannot hold the model."""
    reasons = []
    if config.patch[0] != config.patch[1]:
        reasons.append(f"its patches are square, these are {config.patch[0]} mel bins x {config.patch[1]} frames")
    if kind is Classifier and config.pooling == "mean":
        reasons.append("its classifier pools [CLS] and distillation, this one the mean over the patches")
    if kind is Classifier and config.norm_eps is None:
        reasons.append(f"it adds one epsilon to every variance, this model {OURS:g} and in its head {HEAD:g}")
    return reasons


def _description(kind: type, config: ModelConfig, wrapped: bool) -> dict[str, Any]:
    name = _CLASSES[kind]
    said: dict[str, Any] = {
        "architectures": [f"SSAST{name}" if wrapped else f"AST{name}" if kind is not SSAST else "ASTModel"],
        "model_type": WRAPPED if wrapped else MODEL_TYPE,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": config.norm_eps or OURS,
        "patch_size": min(config.patch),
        "frequency_stride": config.stride[0],
        "time_stride": config.stride[1],
        "max_length": config.frames,
        "num_mel_bins": config.audio.mel_bins,
        "qkv_bias": True,
        "dtype": "float32",
    }
    auto = (
        {"AutoModelForPreTraining": f"{WRAPPER}.{'SSAST' if wrapped else 'AST'}ForPreTraining"} if kind is SSAST else {}
    )
    if wrapped:
        said |= {"patch_shape": [*config.patch], "pooling": config.pooling, "head_norm_eps": config.norm_eps or HEAD}
        auto |= {"AutoConfig": f"{WRAPPER}.SSASTConfig", "AutoModel": f"{WRAPPER}.SSASTModel"}
        if kind is Classifier:
            auto["AutoModelForAudioClassification"] = f"{WRAPPER}.SSASTForAudioClassification"
    if kind is Classifier:
        said["id2label"] = {str(number): label for number, label in enumerate(config.labels)}
        said["label2id"] = {label: number for number, label in enumerate(config.labels)}
    return said | ({"auto_map": auto} if auto else {})


def _features(config: ModelConfig, narrow: bool) -> dict[str, Any]:
    low, high = config.audio.band
    own = {"low_freq": low, "high_freq": high, "auto_map": {"AutoFeatureExtractor": f"{WRAPPER}.SSASTFeatureExtractor"}}
    return (own if narrow else {}) | {
        "feature_extractor_type": "SSASTFeatureExtractor" if narrow else "ASTFeatureExtractor",
        "do_normalize": True,
        "feature_size": 1,
        "max_length": config.frames,
        "mean": config.audio.mean,
        "num_mel_bins": config.audio.mel_bins,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": config.audio.sample_rate,
        "std": config.audio.std,
    }


def _weights(model: nn.Module, kind: type, wrapped: bool) -> dict[str, Tensor]:
    config: ModelConfig = model.config  # type: ignore[assignment]
    ours = {name: value.detach().cpu().float() for name, value in model.state_dict().items()}
    kernel = "encoder.patch_embedding.weight"
    ours[kernel] = ours[kernel].unflatten(1, (1, *config.patch))
    prefix = "" if kind is EncoderModel else PREFIX
    head = "pooled_classifier" if wrapped else "classifier"
    state = {}
    for name, theirs in names_of(config.depth, False, kind is Classifier, head).items():
        parts = ours.pop(name).chunk(len(theirs))
        for their, part in zip(theirs, parts, strict=True):
            state[their if their.startswith(f"{head}.") else prefix + their] = part.contiguous()
    return state | {name: value.contiguous() for name, value in ours.items()}  # the pretext's, under our names


def _json(values: dict[str, Any]) -> bytes:
    return (to_json(values, indent=2, ensure_ascii=False) + "\n").encode()
