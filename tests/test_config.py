"""What a configuration promises: presets that build, sentences for what cannot be, and a way through JSON."""

import json
import re

import pytest
import torch

from ssast_lab import masking
from ssast_lab.config import (
    SHAPES,
    SIZES,
    AudioConfig,
    ConfigError,
    FineTuneConfig,
    MaskConfig,
    ModelConfig,
    PretrainConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    from_dict,
    model_config,
    to_dict,
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", SHAPES)
def test_presets(size, kind):
    config = model_config(f"{size}-{kind}")
    assert config.grid.count == 512
    assert config.grid.tiles
    assert config.grid.values == 256
    assert config.width // config.heads in (32, 64)


def test_presets_can_be_changed():
    config = model_config("base-frame", frames=200, labels=("a", "b"))
    assert (config.width, config.frames, config.grid.count, config.labels) == (768, 200, 100, ("a", "b"))


def wrong(build):
    with pytest.raises(ConfigError) as caught:
        build()
    assert re.fullmatch(r"[^\n]{10,200}\.", str(caught.value)), caught.value
    return str(caught.value)


@pytest.mark.parametrize("name", ["", "tiny", "huge-patch", "tiny-square", "tiny-patch-16", "Tiny-patch"])
def test_unknown_presets(name):
    assert "base-frame" in wrong(lambda: model_config(name))


@pytest.mark.parametrize(
    "changes",
    [
        dict(width=0),
        dict(depth=-1),
        dict(heads=0),
        dict(width=100, heads=3),
        dict(width=192.0),
        dict(width="192"),
        dict(frames=None),
        dict(frames=8),
        dict(patch=(16,)),
        dict(patch=(16, 16, 16)),
        dict(patch=(129, 1)),
        dict(stride=(16, 0)),
        dict(stride=(16, 1.5)),
        dict(pooling="max"),
        dict(pooling=["mean"]),
        dict(labels=("dog", "cat", "dog")),
        dict(labels=(1, 2)),
    ],
    ids=str,
)
def test_impossible_models(changes):
    wrong(lambda: ModelConfig(**changes))


@pytest.mark.parametrize(
    "changes",
    [dict(mel_bins=0), dict(mel_bins=1.5), dict(std=0.0), dict(std=-1.0), dict(std=float("inf"))]
    + [{name: float("nan")} for name in ("mean", "std")],
    ids=str,
)
def test_impossible_audio(changes):
    wrong(lambda: AudioConfig(**changes))


@pytest.mark.parametrize("changes", [dict(count=0), dict(cluster=(0, 3)), dict(cluster=(5, 3))], ids=str)
def test_impossible_masks(changes):
    wrong(lambda: MaskConfig(**changes))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: TrainingConfig(optimizer="sgd"), "optimizer is adamw or muon or adam, not 'sgd'."),
        (lambda: TrainingConfig(schedule=None), "schedule is cosine or wsd or plateau or decay, not None."),
        (lambda: TrainingConfig(softmax_over="rows"), "softmax_over is targets or predictions, not 'rows'."),
        (lambda: TuningConfig(loss="mse"), "loss is auto or ce or bce, not 'mse'."),
        (lambda: FineTuneConfig(pooling="max"), "pooling is mean or cls, not 'max'."),
        (lambda: RunConfig(precision="fp16"), "precision is auto or fp32 or bf16, not 'fp16'."),
    ],
)
def test_a_choice_is_one_of_those_there_are(build, said):
    assert wrong(build) == said


def test_configurations_do_not_change():
    with pytest.raises(AttributeError):
        ModelConfig().width = 3


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        model_config("small-frame", frames=998, stride=(128, 1), pooling="cls", labels=("Hund", "späte Grüße", "鳥")),
        model_config("nano-patch", audio=AudioConfig(mel_bins=64, mean=-5.5, std=0.1)),
    ],
    ids=["default", "classifier", "audio"],
)
def test_round_trip_through_json(config):
    settings = json.loads(json.dumps(to_dict(config)))
    again = ModelConfig(**settings | {"audio": AudioConfig(**settings["audio"])})
    assert again == config
    assert hash(again) == hash(config)


def test_a_share_of_the_patches_is_hidden():
    """The share of every grid, rounded, and at least one patch; the paper's 400 where neither is named."""
    grid = model_config("nano-patch", frames=96).grid
    for share, hidden in ((0.78, 37), (0.5, 24), (0.001, 1), (1.0, 48)):
        mask = masking.draw_mask(grid, MaskConfig(share=share), generator=torch.Generator().manual_seed(0), batch=3)
        assert mask.sum(1).tolist() == [hidden] * 3
    assert MaskConfig() == MaskConfig(400)
    assert MaskConfig().hidden(512) == 400
    assert "400" in wrong(lambda: MaskConfig(400, share=0.5))
    assert "not 1.2" in wrong(lambda: MaskConfig(share=1.2))
    assert "not 0" in wrong(lambda: MaskConfig(share=0.0))
    window = model_config("nano-patch", frames=96)
    assert "fewest" in wrong(lambda: PretrainConfig(window, MaskConfig(share=0.5, fewest=30)))
    assert "40 hidden" in wrong(
        lambda: PretrainConfig(window, MaskConfig(share=0.5), training=TrainingConfig(sampled=40))
    )


def test_older_runs_know_no_share():
    """Without a share the configuration is written as it was before there were any; with one it goes through JSON."""
    assert to_dict(MaskConfig(100)) == {"count": 100, "cluster": (3, 5)}
    shared = json.loads(json.dumps(to_dict(MaskConfig(share=0.25, cluster=None))))
    assert from_dict(MaskConfig, shared) == MaskConfig(share=0.25, cluster=None)
