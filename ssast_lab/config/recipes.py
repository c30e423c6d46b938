"""Whole configurations by name, of pretraining and of fine-tuning."""

from dataclasses import replace
from typing import Any

from ssast_lab.config.settings import (
    DataConfig,
    FineTuneConfig,
    LabelledConfig,
    MaskConfig,
    PretrainConfig,
    TrainingConfig,
    TuningConfig,
)
from ssast_lab.config.shapes import AUDIO, SHAPES, SIZES, AudioConfig, ConfigError, model_config


def pretrain_config(name: str, **data: Any) -> PretrainConfig:
    """A recipe by name: ``"official-base-patch-400"`` or ``"modern-tiny-frame-250"``, that is recipe, size, patches and how
    many of them are hidden (400, 250 and 100 in the paper); ``"modern-base-patch-400-2048"`` names the batch as well, and
    ``"quick-tiny-patch-400-birds-48k"`` features of ``AUDIO``.
    ``data`` are the fields of :class:`DataConfig`.

    *official* is the published code's recipe (``src/pretrain/run_mask_*.sh``, ``src/traintest_mask.py``), which pads short clips
    and hides, learns and measures their padding like sound; the others join short clips. *modern* is AdamW with a cosine,
    gradient clipping, and a learning rate that grows with the square root of the batch; *quick* is the same with Muon and small
    batches, which learns more from the clips that a CPU has time for. Both predict a quarter of the hidden patches in each step
    and all of them in the last tenth, which takes about a third of the time for the same learning.
    """
    features = next((one for one in AUDIO if name.endswith(f"-{one}")), "")
    words = name.removesuffix(f"-{features}").split("-")
    recipe, size, kind, *numbers = [*words, "", "", ""][: max(4, len(words))]
    if (
        recipe not in ("official", "modern", "quick")
        or not 1 <= len(numbers) <= 2
        or not all(n.isdigit() for n in numbers)
    ):
        raise ConfigError(
            f'There is no recipe {name!r}: names are like "official-base-patch-400" or "modern-nano-frame-250", '
            f"with official, modern or quick, {', '.join(SIZES)}, patch or frame, the number of hidden patches, and, for another "
            f"sample rate, {' or '.join(AUDIO)}."
        )
    model = model_config("-".join(filter(None, (size, kind, features))))
    count = int(numbers[0])
    mask = MaskConfig(count, (3, 5) if kind == "patch" else None)
    if recipe == "official":
        tiny = size in ("nano", "tiny")
        training = TrainingConfig(
            steps=800_000, batch=120 if tiny else 24, learning_rate=5e-4 if tiny else 1e-4, optimizer="adam",
            betas=(0.95, 0.999), weight_decay=5e-7, schedule="plateau", warmup=1000, warmup_every=50, patience=2,
            clip_norm=None, start="official", softmax_over="predictions", evaluate_every=4000, pack=False,
        )  # fmt: skip
        if numbers[1:]:
            training = replace(training, batch=int(numbers[1]))
    else:
        usual, peak = {"nano": (32, 1e-3), "tiny": (256, 1e-3), "small": (512, 7e-4), "base": (1024, 5e-4)}[size]
        more: dict[str, Any] = {}
        if recipe == "quick":
            usual, peak, more = 8, 2e-3, dict(optimizer="muon", warmup=200)
        batch = int(numbers[1]) if numbers[1:] else usual
        sampled = max(count // 4, 2) if count > 1 else None
        training = TrainingConfig(batch=batch, learning_rate=peak * (batch / usual) ** 0.5, sampled=sampled, **more)
    return PretrainConfig(model, mask, DataConfig(**data), training)


# The official recipes (src/finetune/ of the official code; superb/ for ks1, sid and er). Adam throughout.
_OFFICIAL = dict(optimizer="adam", betas=(0.95, 0.999), weight_decay=5e-7, clip_norm=None, warmup=0, schedule="decay")
_SUPERB = _OFFICIAL | dict(batch=32, learning_rate=1e-4, decay=1.0, clip_norm=1.0, betas=(0.9, 0.999), weight_decay=0.0)
_AUDIOSET = dict(frequency_mask=48, time_mask=192, mixup=0.5, loss="bce", batch=12)
_AUDIOSET_STATISTICS = (AudioConfig.mean, AudioConfig.std)
_RECIPES: dict[str, tuple[str, int | None, tuple[float | None, float | None], dict[str, Any]]] = {
    # name: (data set, frames, mean and deviation, training)
    "small": ("", None, (None, None), dict(frequency_mask=16, time_mask=16, noise=True)),
    "as20k": ("audioset-20k", 1024, _AUDIOSET_STATISTICS, _OFFICIAL | _AUDIOSET | dict(
        learning_rate=5e-5, epochs=25, decay=0.5, decay_from=10, decay_every=5, average_from=6)),
    "as2m": ("", 1024, _AUDIOSET_STATISTICS, _OFFICIAL | _AUDIOSET | dict(
        learning_rate=1e-5, epochs=5, decay=0.5, decay_from=10, decay_every=5, average_from=1, balanced=True)),
    "esc50": ("esc-50", 512, (-6.6268077, 5.358466), _OFFICIAL | dict(
        learning_rate=1e-4, batch=48, epochs=50, frequency_mask=24, time_mask=96, noise=True, loss="ce",
        decay=0.85, decay_from=6)),
    "speechcommands": ("speech-commands-v2", 128, (-6.845978, 5.5654526), _OFFICIAL | dict(
        learning_rate=2.5e-4, batch=128, epochs=30, frequency_mask=48, time_mask=48, mixup=0.6, noise=True, loss="bce",
        decay=0.85, decay_from=5, warmup=1000, warmup_every=50)),
    "ks1": ("speech-commands-v1", 100, _AUDIOSET_STATISTICS, _SUPERB | dict(steps=20_000, balanced=True)),  # as s3prl draws
    "sid": ("voxceleb1", 1000, _AUDIOSET_STATISTICS, _SUPERB | dict(steps=40_000)),
    "er": ("iemocap", 600, _AUDIOSET_STATISTICS, _SUPERB | dict(steps=10_000)),
}  # fmt: skip


def finetune_config(name: str, model: str = "", **labelled: str) -> FineTuneConfig:
    """A recipe by name: ``"small-patch"`` (ours, for some hundreds of clips), or an official one: ``"as20k"``, ``"as2m"``,
    ``"esc50"``, ``"speechcommands"`` (v2, 35 words), ``"ks1"`` (v1 as in SUPERB), ``"sid"`` (VoxCeleb1) and ``"er"``
    (IEMOCAP), each with ``-patch`` or ``-frame``, whose strides differ. ``model`` is what :class:`FineTuneConfig` says, and
    ``labelled`` are the fields of :class:`LabelledConfig`.
    """
    recipe, _, kind = name.rpartition("-")
    if recipe not in _RECIPES or kind not in SHAPES:
        raise ConfigError(
            f'There is no recipe {name!r}: names are like "esc50-patch" or "small-frame", '
            f"with {', '.join(_RECIPES)}, and patch or frame."
        )
    dataset, frames, (mean, std), training = _RECIPES[recipe]
    if recipe == "ks1" and kind == "frame":
        training = training | dict(learning_rate=5e-5)
    overlap = (10, 10) if kind == "patch" else (128, 1)
    return FineTuneConfig(
        model or f"tiny-{kind}", frames, None if recipe == "small" else overlap, "mean", mean, std,
        LabelledConfig(**dict(dataset=dataset) | labelled), TuningConfig(**training),
    )  # fmt: skip


def finetune_recipes() -> tuple[str, ...]:
    """The names of the recipes of fine-tuning, without -patch or -frame."""
    return tuple(_RECIPES)
