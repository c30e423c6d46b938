"""Pretraining that goes on from a trained model."""

import pytest
import torch
from tiny import here, tiny, write_clips

from ssast_lab import checkpoint
from ssast_lab.config import AudioConfig, ConfigError
from ssast_lab.learning.pretrain import Pretraining, pretrain
from ssast_lab.model import Classifier


@pytest.fixture
def first(tmp_path):
    write_clips(tmp_path / "clips", 8, (0.7, 1.5))
    for _ in pretrain(tiny(tmp_path / "clips", steps=4), here(tmp_path / "first")):
        pass
    return tmp_path / "first"


def test_it_starts_with_the_weights_of_that_model(first, tmp_path):
    task = Pretraining(tiny(tmp_path / "clips", start_from=str(first)))
    given = checkpoint.load(first).state_dict()
    assert all(torch.equal(value, given[name]) for name, value in task.build().state_dict().items())
    random, trained = (
        next(
            iter(
                pretrain(
                    tiny(tmp_path / "clips", steps=2, seed=3, start_from=start), here(tmp_path / f"run-{start != ''}")
                )
            )
        )
        for start in ("", str(first))
    )
    assert trained.loss < random.loss


def test_another_length_is_cut_out_of_its_positions(first, tmp_path):
    model = Pretraining(tiny(tmp_path / "clips", model={"frames": 32}, start_from=str(first))).build()
    assert model.config.frames == 32
    assert torch.equal(model.encoder.blocks[0].mlp[0].weight, checkpoint.load(first).encoder.blocks[0].mlp[0].weight)


@pytest.mark.parametrize(
    ("change", "word", "advice"),
    [
        ({"width": 64}, "width", "--model.width 32 --model.depth 2 --model.heads 2"),
        ({"depth": 1}, "depth", "--model.depth 2 "),
        ({"audio": AudioConfig(mean=-5.0)}, "audio", "without --model.audio.mean"),
    ],
)
def test_another_shape_or_other_features_are_refused(first, tmp_path, change, word, advice):
    with pytest.raises(ConfigError, match=f"cannot go on from .* with another {word}: it has .*{advice}"):
        Pretraining(tiny(tmp_path / "clips", model=change, start_from=str(first))).build()


def test_a_classifier_is_refused(first, tmp_path):
    checkpoint.save(Classifier.from_pretrained(checkpoint.load(first), ("a", "b")), tmp_path / "classifier")
    with pytest.raises(ConfigError, match="has no pretext heads"):
        Pretraining(tiny(tmp_path / "clips", start_from=str(tmp_path / "classifier"))).build()
