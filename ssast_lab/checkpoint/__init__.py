"""Models on disk: our own checkpoints, the official ones, those of transformers, and the built-in models.

    tensors.py      named tensors out of a file, and into a model
    names.py        weights under other names
    layouts.py      which length and stride a file's positions fit
    report.py       what loading took, left and missed
    official.py     the layout of the official code
    audyn.py        that of Audyn's release files
    vit.py          that of AudioMAE's encoders
    hub.py          a model of the Hugging Face Hub by its name
    huggingface.py  the folders of transformers, read
    to_huggingface.py  and written
    own.py          our own folders: weights, and a description of them
    by_name.py      any of these by a name or path
    heads.py        linear heads that are kept beside a model
    graph.py        a model as ONNX, or as torch.export keeps it
    card.py         the page that goes with an exported model
    export.py       a model for others

A checkpoint is a folder: ``model.safetensors`` holds the weights, and ``config.json`` says what they are (the whole
configuration, a checksum of the weights, and whatever its maker wrote about it). Files from strangers are data: nothing in
them is ever executed, and whatever is wrong with one is said in a :class:`CheckpointError` of one sentence.
"""

from ssast_lab.checkpoint.by_name import builtin_models, check, checkpoints_of, describe, load, load_with_report
from ssast_lab.checkpoint.export import Exported, about_of, export
from ssast_lab.checkpoint.heads import Head, heads, save_head
from ssast_lab.checkpoint.layouts import Layout, LayoutWarning
from ssast_lab.checkpoint.official import from_official
from ssast_lab.checkpoint.own import CONFIG, FORMAT, WEIGHTS, Model, save
from ssast_lab.checkpoint.report import LoadReport, Weight, fingerprint
from ssast_lab.checkpoint.tensors import CheckpointError

__all__ = [
    "CONFIG", "FORMAT", "WEIGHTS", "CheckpointError", "Exported", "Head", "Layout", "LayoutWarning", "LoadReport", "Model", "Weight", "about_of", "builtin_models", "check",
    "checkpoints_of", "describe", "export", "fingerprint", "from_official", "heads", "load", "load_with_report", "save", "save_head",
]  # fmt: skip
