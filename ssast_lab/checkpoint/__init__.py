"""Models on disk: our own checkpoints, the official ones, those of transformers, and the built-in models.

A checkpoint is a folder: ``model.safetensors`` holds the weights, and ``config.json`` says what they are (the whole
configuration, a checksum of the weights, and whatever its maker wrote about it). Files from strangers are data: nothing in
them is ever executed, and whatever is wrong with one is said in a :class:`CheckpointError` of one sentence.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssast_lab.checkpoint.huggingface import HuggingFaceError, from_huggingface
from ssast_lab.config import SIZES, AudioConfig, ConfigError, ModelConfig, from_dict, model_config, to_dict
from ssast_lab.model import SPECIAL, SSAST, Classifier, Headless
from ssast_lab.predictive import APC, APCConfig, Contrastive, ContrastiveConfig

FORMAT = "ssast-lab checkpoint 1"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
Model = SSAST | Classifier | Headless | APC | Contrastive
T = TypeVar("T")
KINDS: dict[str, tuple[type[Model], type]] = {  # kind -> its class, and that of its configuration
    "pretext": (SSAST, ModelConfig),
    "classifier": (Classifier, ModelConfig),
    "encoder": (Headless, ModelConfig),
    "apc": (APC, APCConfig),
    "wav2vec": (Contrastive, ContrastiveConfig),
}
LARGEST = 8 << 30  # bytes: twenty times the base model; more is no checkpoint of this family
DEEPEST = 1000  # layers


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the message says what it is and what is wrong with it."""


def builtin_models() -> dict[str, Path]:
    """Name -> folder of the checkpoints that come with the package."""
    folder = Path(str(files("ssast_lab"))) / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG}"))}


def load(name_or_path: str | os.PathLike[str], **official: Any) -> Model:
    """A model in evaluation mode on the CPU, from a built-in name, a checkpoint folder, a training run's folder (its best
    checkpoint), a folder of Hugging Face's transformers (see :func:`ssast_lab.checkpoint.huggingface.from_huggingface`) or an official
    ``.pth`` file; with ``scratch:`` before it, one of the same shape with random weights (``scratch:tiny-patch`` names a
    preset, ``scratch@1:`` draws by the seed 1 rather than 0).

    An official file does not say everything about itself; ``official`` may name its ``audio`` statistics, ``labels``,
    ``pooling``, and for a fine-tuned one the ``frames`` and ``stride`` (see :func:`from_official`).
    """
    random = re.fullmatch(r"scratch(?:@(\d{1,9}))?:(.+)", str(name_or_path))
    if random:
        return _untrained(random[2], int(random[1] or 0))
    return _reading(name_or_path, lambda path: _load(path, name_or_path, official))


def _load(path: Path, name_or_path: str | os.PathLike[str], official: dict[str, Any]) -> Model:
    if not os.path.exists(path):  # unlike Path.exists, false for a name that is too long as well
        names = ", ".join(builtin_models()) or "none"
        raise CheckpointError(
            f"There is no model {str(name_or_path)!r}: it is neither a file or folder nor a built-in model ({names})."
        )
    if path.name in (WEIGHTS, CONFIG):
        path = path.parent
    if path.is_dir():
        if official:
            raise CheckpointError(
                f"{path} is a checkpoint folder, which describes itself: {', '.join(official)} cannot be given."
            )
        return _load_folder(path)
    return from_official(_read_pickle(path), str(path), **official)


def _untrained(like: str, seed: int) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if like not in builtin_models():
            try:
                return SSAST(model_config(like)).eval()
            except ConfigError:
                pass  # no preset: a checkpoint
        model: Any = load(like)
        torch.manual_seed(seed)
        return type(model)(model.config).eval()


def describe(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint folder or built-in model says about itself: its ``config.json``."""
    return _reading(name_or_path, _read_description)


def _reading(name_or_path: str | os.PathLike[str], read: Callable[[Path], T]) -> T:
    """What ``read`` makes of the checkpoint of that name. A run that is going on may remove it just then, for a newer one:
    then that is read."""
    while True:
        path = _located(name_or_path)
        try:
            return read(path)
        except CheckpointError:
            if os.path.exists(path) or path == _located(name_or_path):
                raise


def _located(name_or_path: str | os.PathLike[str]) -> Path:
    path = builtin_models().get(str(name_or_path), Path(name_or_path))
    old = _old(path)
    if not os.path.exists(path) and os.path.isdir(old):
        return old
    if os.path.isdir(path / "checkpoints"):
        path = _of_run(path)
    return path / "model" if os.path.isdir(path / "model") else path


def checkpoints_of(folder: Path) -> dict[str, Path]:
    """Name -> folder of the checkpoints of a training run, in order; copies under other names are somebody else's."""
    paths = sorted((folder / "checkpoints").glob("step-*"))
    return {path.name: path for path in paths if re.fullmatch(r"step-\d{8,}", path.name)}


def _of_run(folder: Path) -> Path:
    """The best checkpoint of a training run's folder, or the last one where none is known to be the best."""
    try:
        best = f"step-{json.loads((folder / 'best.json').read_text(encoding='utf-8'))['step']:08d}"
    except (OSError, ValueError, KeyError, TypeError):
        best = ""
    # looked for after it was named: a run that is going on writes the checkpoint first, and then that it is the best
    found = checkpoints_of(folder)
    if not found:
        raise CheckpointError(f"The run in {folder} has written no checkpoint yet.")
    return found.get(best, [*found.values()][-1])


def _old(path: Path) -> Path:
    """Where :func:`save` keeps the checkpoint that it replaces, and where it stays if just then the process dies."""
    return path.parent / f".{path.name}.old"


def save(model: Model, path: str | os.PathLike[str], about: dict[str, Any] | None = None, half: bool = False) -> Path:
    """Writes a checkpoint folder, aside first and renamed into place when it is whole.

    ``about`` (JSON) goes into ``config.json``; ``half`` stores float16, which halves the file.
    """
    path = Path(path)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        state = {name: value.half() for name, value in state.items()}
    weights = to_safetensors(state, metadata={"format": "pt"})
    kind = next(name for name, (cls, _) in KINDS.items() if isinstance(model, cls))
    description = {
        "format": FORMAT,
        "kind": kind,
        "model": to_dict(model.config),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "about": about or {},
    }
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        (aside / WEIGHTS).write_bytes(weights)
        (aside / CONFIG).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if path.is_dir():  # a folder cannot be renamed over another one that has files in it
            shutil.rmtree(_old(path), ignore_errors=True)
            path.rename(_old(path))
        aside.rename(path)
        shutil.rmtree(_old(path), ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is no checkpoint: it has no {CONFIG}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / CONFIG} cannot be read: {error}.") from None
    if isinstance(description, dict) and "model_type" in description and "format" not in description:
        about = {"from": "a folder of Hugging Face's transformers"}
        return {"format": "transformers", "kind": description["model_type"], "model": description, "about": about}
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no SSAST Lab checkpoint: its {CONFIG} does not say {FORMAT!r}.")
    for name, cls in (("kind", str), ("model", dict), ("sha256", str), ("about", dict)):
        if not isinstance(description.get(name), cls):
            raise CheckpointError(f"{path / CONFIG} does not describe a model: {name!r} is missing or unknown.")
    return description


def _load_folder(path: Path) -> Model:
    description = _read_description(path)
    cls: type[Model]
    try:
        if description["format"] != FORMAT:
            cls, config, state = from_huggingface(path, description["model"], _read_tensors)
            return _fill(_skeleton(cls, config), state, str(path))
        cls, about_it = KINDS[description["kind"]]
        config = from_dict(about_it, description["model"])
        promised = description["sha256"]
        model = _skeleton(cls, config)
    except (CheckpointError, HuggingFaceError) as error:
        raise CheckpointError(str(error)) from None
    except KeyError as error:
        raise CheckpointError(f"{path / CONFIG} does not describe a model: {error} is missing or unknown.") from None
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path / CONFIG} does not describe a model: {str(error).rstrip('.')}.") from None
    return _fill(model, _read_tensors(path / WEIGHTS, promised), str(path))


def _read_tensors(file: Path, promised: str | None = None) -> dict[str, Tensor]:
    """``promised`` is the checksum that a safetensors file must have."""
    if file.suffix == ".bin":
        return _read_pickle(file)
    try:
        if file.stat().st_size > LARGEST:
            raise CheckpointError(f"{file} is larger than any checkpoint of this family.")
        weights = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file.parent} has no weights: {error}.") from None
    if promised is not None and hashlib.sha256(weights).hexdigest() != promised:
        raise CheckpointError(f"{file} is damaged or not the file that {CONFIG} describes: its checksum differs.")
    try:
        return read_safetensors(weights)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file} is no safetensors file: {error}.") from None


class _Undrawn(TorchFunctionMode):
    """Weights that a file will fill are not drawn from a normal distribution first: on the meta device that would import
    PyTorch's compiler, which takes longer than everything else together."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in (torch.Tensor.normal_, nn.init.normal_):
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def _skeleton(cls: type[Model], config: Any) -> Model:
    """A model whose weights occupy no memory yet, so that a wild description costs nothing."""
    sizes = [value for value in asdict(config).values() if isinstance(value, int)]
    if isinstance(config, ModelConfig):
        sizes += [config.grid.count, config.grid.values]
    if config.depth > DEEPEST or max(sizes) > 1 << 20:
        raise ValueError(
            f"{config.depth} layers and sizes up to {max(sizes)} are more than a model of this family has."
        )
    with torch.device("meta"), _Undrawn():
        model = cls(config)
    size = sum(value.numel() * 4 for value in model.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"{size >> 30} GiB of weights is more than a model of this family has.")
    return model


def _fill(model: Model, state: dict[str, Tensor], source: str) -> Model:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing = sorted(set(wanted) - set(state))
    foreign = sorted(set(state) - set(wanted))
    if missing or foreign:
        what = f"lacks {missing[0]}" if missing else f"has {foreign[0]}, which is not part of such a model"
        raise CheckpointError(f"{source} {what} (and {max(len(missing) + len(foreign) - 1, 0)} other differences).")
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(
                f"{source}: {name} has the shape {tuple(state[name].shape)} where {shape} is expected."
            )
        if not state[name].is_floating_point() or not bool(state[name].float().isfinite().all()):
            raise CheckpointError(f"{source}: {name} holds values that are no finite numbers.")
    model.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``torch.save`` file; never unpickles anything but tensors and plain containers."""
    hint = "it is neither an official .pth file nor a checkpoint folder"
    try:
        size = path.stat().st_size
        if size == 0:
            raise CheckpointError(f"{path} is empty.")
        if size > LARGEST:
            raise CheckpointError(f"{path} has {size >> 30} GiB, more than any checkpoint of this family.")
        if zipfile.is_zipfile(path):  # torch.save does not compress
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > size:
                    raise CheckpointError(f"{path} is compressed, as no .pth file is: unpack it first.")
                damaged = archive.testzip()  # torch.load would not look at the checksums
                if damaged:
                    raise CheckpointError(f"{path} is damaged: the checksum of {damaged!r} in it differs.")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it wants to run {found[1]}, which no weights need" if found else hint
        raise CheckpointError(f"{path} was not loaded: {reason}.") from None
    except Exception as error:  # torch raises nearly anything on a damaged file
        whole = zipfile.is_zipfile(path) or "zip" not in str(error)
        raise CheckpointError(f"{path} was not loaded: {hint if whole else 'it is damaged or cut short'}.") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(name, str) and _is_plain(value) for name, value in state.items())
    ):
        raise CheckpointError(f"{path} holds no named tensors, so it is no checkpoint of a model.")
    return state


def _is_plain(value: object) -> bool:
    """Whether this is a tensor with its values in memory: none that is sparse, empty inside or wider than what it holds."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


_OFFICIAL = [  # (pattern in the official layout, our name); the first that matches counts
    (r"v\.patch_embed\.proj\.(weight|bias)", r"encoder.patch_embedding.\1"),
    (r"v\.cls_token", "encoder.cls_token"),
    (r"v\.dist_token", "encoder.distillation_token"),
    (r"v\.pos_embed", "encoder.positions"),
    (r"v\.blocks\.(\d+)\.(norm[12])\.(weight|bias)", r"encoder.blocks.\1.\2.\3"),
    (r"v\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"encoder.blocks.\1.attention.qkv.\2"),
    (r"v\.blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"encoder.blocks.\1.attention.out.\2"),
    (r"v\.blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"encoder.blocks.\1.mlp.0.\2"),
    (r"v\.blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"encoder.blocks.\1.mlp.2.\2"),
    (r"v\.norm\.(weight|bias)", r"encoder.norm.\1"),
    (r"mask_embed", "mask_token"),
    (r"cpredlayer\.([02])\.(weight|bias)", r"contrastive_head.\1.\2"),
    (r"gpredlayer\.([02])\.(weight|bias)", r"reconstruction_head.\1.\2"),
    (r"mlp_head\.0\.(weight|bias)", r"norm.\1"),
    (r"mlp_head\.1\.(weight|bias)", r"linear.\1"),
]
_UNUSED = re.compile(r"v\.head(_dist)?\.(weight|bias)|p_input_[ft]dim")  # ImageNet heads that SSAST never trains; sizes


def from_official(
    state: dict[str, Tensor],
    source: str = "the official checkpoint",
    *,
    audio: AudioConfig | None = None,
    labels: tuple[str, ...] | None = None,
    pooling: str = "mean",
    frames: int | None = None,
    stride: tuple[int, int] | None = None,
) -> Model:
    """A model from the official layout, pretrained or fine-tuned, with or without the ``module.`` prefix.

    A pretraining file tells its shape. A fine-tuned one does not tell its length and stride: they follow from the number of
    its positions as the official recipes set them (16x16 patches at a stride of 10, frames at 1), unless they are given here.
    Labels have no names in the official layout; they are numbered unless ``labels`` names them.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        ours = next((re.sub(p, new, name) for p, new in _OFFICIAL if re.fullmatch(p, name)), None)
        if ours is not None:
            renamed[ours] = value
        elif not _UNUSED.fullmatch(name):
            raise CheckpointError(f"{source} holds {name}, which no official SSAST model has.")
    try:
        kernel, table = renamed["encoder.patch_embedding.weight"], renamed["encoder.positions"]
        depth = 1 + max(int(name.split(".")[2]) for name in renamed if name.startswith("encoder.blocks."))
        width, channels, *patch = kernel.shape
        count = table.shape[1] - SPECIAL
        if channels != 1 or len(patch) != 2:
            raise CheckpointError(f"{source} has a patch embedding for {channels} channels; SSAST hears one.")
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{source} is not in the official layout: it lacks its patch embedding, positions or layers ({error})."
        ) from None
    renamed["encoder.patch_embedding.weight"] = kernel.flatten(1)
    heads = next(
        (size["heads"] for size in SIZES.values() if (size["width"], size["depth"]) == (width, depth)), width // 64
    )
    fine_tuned = "linear.weight" in renamed
    try:
        if fine_tuned:
            renamed = {
                name: value for name, value in renamed.items() if name.startswith(("encoder.", "norm.", "linear."))
            }
            labels = labels or tuple(str(number) for number in range(len(renamed["linear.weight"])))
        mel_bins = int(state["p_input_fdim"]) if "p_input_fdim" in state else 128
        if "p_input_tdim" in state and not fine_tuned:
            frames, stride = int(state["p_input_tdim"]), (patch[0], patch[1])
        elif stride is None or frames is None:
            frames, stride = _official_layout(count, (patch[0], patch[1]), mel_bins, frames, stride)
        config = ModelConfig(
            width,
            depth,
            max(heads, 1),
            frames,
            (patch[0], patch[1]),
            stride,
            pooling,
            labels or () if fine_tuned else (),
            replace(audio or AudioConfig(), mel_bins=mel_bins),
        )
        model = _skeleton(Classifier if fine_tuned else SSAST, config)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{source} does not describe a model: {str(error).rstrip('.')}.") from None
    if config.grid.count != count:
        raise CheckpointError(
            f"{source} has positions for {count} patches, but {frames} frames at a stride of {stride} "
            f"make {config.grid.count}."
        )
    return _fill(model, renamed, source)


def _official_layout(
    count: int, patch: tuple[int, int], mel_bins: int, frames: int | None, stride: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    """The length and stride behind a number of positions: the first of the official recipes' layouts that gives it."""
    if min(*patch, *(stride or patch)) < 1 or patch[0] > mel_bins:
        raise CheckpointError(
            f"Patches of {patch[0]}x{patch[1]} at a stride of {stride} do not fit {mel_bins} mel bins."
        )
    if stride is not None:
        strides = [stride]
    elif patch[0] == mel_bins:
        strides = [(patch[0], 1), patch]
    else:
        strides = [(10, 10), patch]
    for length in [frames] if frames else [1024, 512, 128, 100, 600, 1000, 998]:
        for step in strides:
            if length >= patch[1] and count == ((mel_bins - patch[0]) // step[0] + 1) * (
                (length - patch[1]) // step[1] + 1
            ):
                return length, step
    for step in reversed(strides):  # no recipe: the shortest length that gives so many positions
        columns, rest = divmod(count, (mel_bins - patch[0]) // step[0] + 1)
        if rest == 0 and columns:
            return (columns - 1) * step[1] + patch[1], step
    raise CheckpointError(f"{count} positions fit no stride of the official recipes: say the frames and the stride.")
