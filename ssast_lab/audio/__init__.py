"""From a sound file to the model's input and back: decode and resample, Kaldi log-mel and normalise, log-mel to sound.

errors.py    what is said of a sound that cannot be used, or is not what it seems
headers.py   what a file's first bytes are and promise
blocks.py    a file's samples in order, with silence where some are damaged
arrays.py    samples that are in memory already
decode.py    any sound file to mono at the rate that a model hears
features.py  Kaldi log-mel and its normalisation
inversion.py  from log-mel back to sound
"""

from ssast_lab.audio.decode import (
    SAMPLE_RATE,
    AudioInfo,
    InputReport,
    Source,
    builtin_sounds,
    estimated_seconds,
    info,
    load_piece,
    load_waveform,
    load_with_report,
    waveform_blocks,
)
from ssast_lab.audio.errors import AudioError, AudioWarning
from ssast_lab.audio.features import (
    EPSILON,
    OFFICIAL,
    denormalise,
    kaldi_fbank,
    log_mel,
    within,
)
from ssast_lab.audio.inversion import invert

__all__ = [
    "EPSILON",
    "OFFICIAL",
    "SAMPLE_RATE",
    "AudioError",
    "AudioInfo",
    "AudioWarning",
    "InputReport",
    "Source",
    "builtin_sounds",
    "denormalise",
    "estimated_seconds",
    "info",
    "invert",
    "kaldi_fbank",
    "load_piece",
    "load_waveform",
    "load_with_report",
    "log_mel",
    "waveform_blocks",
    "within",
]
