"""The processes that train together: how their group begins, and how it ends."""

import atexit
import gc
from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

if distributed.is_available():
    # The functions in there keep the group of the moment in which they are defined, as a default. PyTorch imports them with
    # the first model that several processes train: gloo's threads would then outlive destroy_process_group.
    import torch.distributed.nn.functional


def accelerator(**asked: Any) -> Accelerator:
    """Brings this process together with those that were started beside it, if any were; the group lasts to the exit."""
    alone = not _together()
    made = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available(), **asked)
    if alone and _together() and distributed.get_backend() == "gloo":
        atexit.register(_part)
    return made


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _part() -> None:
    """Ends the group, and with it gloo's threads, while the interpreter still stands.

    One that is late frees the tensors of the last exchange, for which it needs the interpreter; where that is being taken
    down by then, the whole process is aborted. To end the group waits for its threads, but only where nobody holds it any
    more: a model does that an error's trace or an unfinished run still holds.
    """
    for each in gc.get_objects():
        if type(each) is DistributedDataParallel:
            vars(each).update(reducer=None, logger=None, process_group=None)
    if _together():  # else its user has ended it
        distributed.destroy_process_group()
