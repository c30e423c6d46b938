"""What a model and its training are made of: frozen dataclasses, checked when they are built, and presets by name.

shapes.py    which features a model hears, and how large it is
settings.py  what a run learns, from which sounds, how, and where
recipes.py   whole configurations by name
"""

from ssast_lab.config.recipes import finetune_config, finetune_recipes, pretrain_config
from ssast_lab.config.settings import (
    DataConfig,
    FineTuneConfig,
    LabelledConfig,
    LearningConfig,
    Loss,
    MaskConfig,
    Optimizer,
    Precision,
    PretrainConfig,
    RunConfig,
    Schedule,
    SoftmaxOver,
    Start,
    TrainingConfig,
    TuningConfig,
    from_dict,
    renamed,
    to_dict,
)
from ssast_lab.config.shapes import (
    AUDIO,
    SHAPES,
    SIZES,
    AudioConfig,
    ConfigError,
    ModelConfig,
    Pooling,
    audio_config,
    check_choices,
    model_config,
)

__all__ = [
    "AUDIO", "SHAPES", "SIZES", "AudioConfig", "ConfigError", "DataConfig", "FineTuneConfig", "LabelledConfig",
    "LearningConfig", "Loss", "MaskConfig", "ModelConfig", "Optimizer", "Pooling", "Precision", "PretrainConfig",
    "RunConfig", "Schedule", "SoftmaxOver", "Start", "TrainingConfig", "TuningConfig", "audio_config", "check_choices",
    "finetune_config", "finetune_recipes", "from_dict", "model_config", "pretrain_config", "renamed", "to_dict",
]  # fmt: skip
