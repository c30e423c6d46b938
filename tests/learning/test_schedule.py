"""The learning rate of each step, beside PyTorch's own schedulers."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from ssast_lab import config
from ssast_lab.config import TrainingConfig
from ssast_lab.learning.schedule import LearningRate


@pytest.mark.parametrize("better", ["max", "min"])
def test_a_plateau_is_torchs(better):
    scores = np.random.default_rng(0).uniform(0.2, 0.4, 60).round(2) + np.linspace(0, 0.3, 60)
    scores[10:16] = 0.31  # repeated
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-2)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, better, factor=0.5, patience=2)
    ours = LearningRate(TrainingConfig(learning_rate=1e-2, schedule="plateau", warmup=10), 1000, better=better)
    seen = []
    for score in scores.tolist():
        torchs.step(score)
        ours.update_plateau(score)
        again = LearningRate(ours.settings, 1000, better=better)
        again.load_state_dict(ours.state_dict())
        assert again(10) == ours(10) == optimizer.param_groups[0]["lr"]
        seen.append(ours(10))
    assert len({*seen}) > 3


@pytest.mark.parametrize("recipe", ["as20k-patch", "esc50-frame", "speechcommands-frame"])
def test_a_decay_by_epochs_is_torchs(recipe):
    """The official code (src/traintest.py) steps a MultiStepLR at the end of each epoch."""
    settings = replace(config.finetune_config(recipe).training, warmup=0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    milestones = [*range(settings.decay_from, 1000, settings.decay_every)]
    torchs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=settings.decay)
    ours = LearningRate(settings, 1000, steps_per_epoch=7.0)
    for epoch in range(settings.epochs):
        assert ours(7 * epoch) == ours(7 * epoch + 6) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        torchs.step()
    assert ours(7 * epoch) < settings.learning_rate


def test_warm_up_and_cosine_end_where_they_should():
    rate = LearningRate(TrainingConfig(learning_rate=0.5, warmup=100), 1000)
    values = [rate(step) for step in range(1001)]
    assert values[0] == 0
    assert values[50] == 0.25
    assert values[100] == max(values) == 0.5
    assert values[550] == pytest.approx(0.25)
    assert 0 < values[999] < 2e-6
    assert values[1000] == pytest.approx(0, abs=1e-15)
    assert all(a > b for a, b in pairwise(values[100:]))
    official = LearningRate(config.pretrain_config("official-base-patch-400").training, 1000)
    assert [official(step) for step in (0, 49, 50, 99, 500, 999, 1000, 10**6)] == pytest.approx(
        [0, 0, 5e-6, 5e-6, 5e-5, 9.5e-5, 1e-4, 1e-4]
    )
    assert LearningRate(TrainingConfig(warmup=0), 1000)(0) == 1e-3
