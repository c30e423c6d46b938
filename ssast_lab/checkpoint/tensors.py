"""Named tensors from files that strangers made, into models that are first checked: nothing in a file is ever executed."""

import hashlib
import pickle
import re
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssast_lab.config import ModelConfig

M = TypeVar("M", bound=nn.Module)
LARGEST = 8 << 30  # bytes: twenty times the base model; more is no checkpoint of this family
DEEPEST = 1000  # layers


# What files of this family hold beside their weights. It is read as nothing: none of the named code is imported or run.
_IGNORED = (
    "argparse.Namespace", "collections.defaultdict", "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode", "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode", "omegaconf.nodes.IntegerNode", "omegaconf.nodes.StringNode", "pathlib.PosixPath", "typing.Any",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("dict", "list", "int", "float", "str", "bool")),
)  # fmt: skip


class _Nothing:
    """Stands for an object whose code is not run."""

    def __init__(self, *arguments: object, **named: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the message says what it is and what is wrong with it."""


def read_tensors(file: Path, promised: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors or ``.bin`` file; ``promised`` is the SHA-256 that a safetensors file must have."""
    if file.suffix == ".bin":
        return read_pickle(file)
    try:
        if file.stat().st_size > LARGEST:
            raise CheckpointError(f"{file} is larger than any checkpoint of this family.")
        weights = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file.parent} has no weights: {error}.") from None
    if promised is not None and hashlib.sha256(weights).hexdigest() != promised:
        raise CheckpointError(f"{file} is damaged or not the file that config.json describes: its checksum differs.")
    try:
        return read_safetensors(weights)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file} is no safetensors file: {error}.") from None


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``torch.save`` file; never unpickles anything but tensors and plain containers."""
    hint, zipped = "it is neither an official .pth file nor a checkpoint folder", False
    try:
        size = path.stat().st_size
        if size == 0:
            raise CheckpointError(f"{path} is empty.")
        if size > LARGEST:
            raise CheckpointError(f"{path} has {size >> 30} GiB, more than any checkpoint of this family.")
        zipped = zipfile.is_zipfile(path)
        if zipped:  # torch.save does not compress
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > size:
                    raise CheckpointError(f"{path} is compressed, as no .pth file is: unpack it first.")
                damaged = archive.testzip()  # torch.load would not look at the checksums
                if damaged:
                    raise CheckpointError(f"{path} is damaged: the checksum of {damaged!r} in it differs.")
        with torch.serialization.safe_globals([(_Nothing, name) for name in _IGNORED]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it wants to run {wanted[1]}, which no weights need" if wanted else hint
        raise CheckpointError(f"{path} was not loaded: {reason}.") from None
    except Exception as error:  # torch raises nearly anything on a damaged file
        whole = zipped or "zip" not in str(error)
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
    """Whether this is a tensor with its values in memory: none that is sparse, nested,
    quantised, empty inside or wider than what it holds."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_nested or value.is_quantized)
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


class _Undrawn(TorchFunctionMode):
    """Weights that a file will fill are not drawn from a normal distribution first: on the meta device that would import
    PyTorch's compiler, which takes longer than everything else together."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in (torch.Tensor.normal_, nn.init.normal_):
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def skeleton(cls: type[M], config: Any) -> M:
    """A model whose weights take up no memory yet, so that a configuration with absurd sizes costs nothing."""
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


def fill(model: M, state: dict[str, Tensor], source: str) -> M:
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
