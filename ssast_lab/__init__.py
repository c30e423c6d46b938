"""SSAST Lab: see, hear and train masked spectrogram models.

    _moved.py      old places of modules, for one release
    extras.py      packages that only a part needs, and how they are installed
    files.py       atomic file writes, and checksums
    tables.py      tables as lines of text
    patches.py     how a spectrogram is cut into patches, and where each one lies in seconds and Hz
    config/        what a model and its training are made of; presets and recipes by name
    masking.py     which patches are hidden: clusters, single patches, and the published algorithm with its biases
    objectives.py  InfoNCE and MSE
    metrics.py     accuracy, mAP and recall with their intervals
    audio/         from any sound file to 16 kHz and on to Kaldi's log-mel features, and back to sound
    model.py       encoder, pretext heads, classifier
    predictive.py  APC and wav2vec in small, with which SSAST is compared
    checkpoint/    models on disk: ours, the official ones, those of transformers, the built-in ones
    analysis.py    what a model does to one sound, as records
    shortcuts.py   the same in one line, by the names of models and files

That is the paper. The wings above it, each on those before it:

    data/          clips and batches, labelled sets, public data sets, the corpus, the tasks
    learning/      the training loop and its runs; pretraining, fine-tuning, APC and wav2vec
    figures/       records as plotly figures
    measuring/     embeddings, evaluation, probes, comparisons, studies, speed
    stage/         what page and notebooks show of a sound
    app/           the page
    widgets/       what the notebooks show
    commands/      the command line

The names below are the stable surface: modules may move, these stay. Each is imported when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssast_lab import _moved as _moved

# PyTorch's idle threads look out for work for so long that they take the cores from whoever has some: beside other programs
# everything was several times slower. It is read when PyTorch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

if TYPE_CHECKING:
    from ssast_lab import figures
    from ssast_lab.analysis import draw_mask, excerpt
    from ssast_lab.audio import load_waveform, log_mel
    from ssast_lab.checkpoint import load
    from ssast_lab.learning.classify import fine_tune
    from ssast_lab.learning.pretrain import pretrain
    from ssast_lab.measuring.embedder import Embedder
    from ssast_lab.measuring.prediction import predict
    from ssast_lab.shortcuts import attend, invert, match, reconstruct

__version__ = "0.1.0"

_MODULES = {
    "load": "ssast_lab.checkpoint",
    "load_waveform": "ssast_lab.audio",
    "log_mel": "ssast_lab.audio",
    "excerpt": "ssast_lab.analysis",
    "draw_mask": "ssast_lab.analysis",
    "reconstruct": "ssast_lab.shortcuts",
    "attend": "ssast_lab.shortcuts",
    "match": "ssast_lab.shortcuts",
    "invert": "ssast_lab.shortcuts",
    "pretrain": "ssast_lab.learning.pretrain",
    "fine_tune": "ssast_lab.learning.classify",
    "Embedder": "ssast_lab.measuring.embedder",
    "predict": "ssast_lab.measuring.prediction",
}
__all__ = [
    "Embedder", "attend", "draw_mask", "excerpt", "figures", "fine_tune", "invert", "load", "load_waveform", "log_mel", "match", "predict", "pretrain",
    "reconstruct",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "figures":
        try:
            return import_module("ssast_lab.figures")
        except ImportError as error:
            from ssast_lab.extras import sentence

            raise ImportError(sentence(error) or str(error), name=error.name) from error
    if name not in _MODULES:
        raise AttributeError(f"module 'ssast_lab' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
