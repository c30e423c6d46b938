"""A model of the Hugging Face Hub by its name: the one thing that is ever fetched, and only when it is asked for."""

import os
import re
from pathlib import Path

from ssast_lab.checkpoint.tensors import CheckpointError

PREFIX = "hf:"
_NAME = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")
_FILES = ["*.json", "*.safetensors", "pytorch_model*.bin"]  # never code


def fetched(name: str) -> Path:
    """``hf:OWNER/NAME`` -> the folder of its files on this machine, where they stay. :class:`CheckpointError` where there is no
    such model, or no way to it."""
    repository = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(repository):
        raise CheckpointError(
            f"{name!r} is no model of the Hugging Face Hub: such names are like hf:MIT/ast-finetuned-audioset."
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError:
        raise CheckpointError(
            f"{name} needs huggingface_hub: install the extra with pip install 'ssast-lab[hub]'."
        ) from None
    try:
        return Path(
            snapshot_download(repository, allow_patterns=_FILES, endpoint=os.environ.get("HF_ENDPOINT"), etag_timeout=5)
        )
    except RepositoryNotFoundError:
        raise CheckpointError(f"There is no model {repository} on the Hugging Face Hub, or it is not public.") from None
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{name} is not on this machine, and the Hugging Face Hub cannot be reached from it: fetch it where there is a network, "
            "and name the folder."
        ) from None
    except Exception as error:  # of the network, the disk or the Hub
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise CheckpointError(f"{name} could not be fetched from the Hugging Face Hub: {reason}.") from None
