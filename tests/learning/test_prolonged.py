"""Runs that can be prolonged: a warm-up, a constant learning rate, and a fall to zero that can be had at any time."""

import re
from itertools import pairwise

import pytest
from tiny import assert_same_run, here, tiny, train, write_clips

from ssast_lab.config import ConfigError, LearningConfig, TrainingConfig
from ssast_lab.learning.pretrain import pretrain
from ssast_lab.learning.run import Run, RunError
from ssast_lab.learning.schedule import LearningRate


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 8)
    return folder


def test_it_rises_stays_and_falls():
    rate = LearningRate(TrainingConfig(learning_rate=2.0, schedule="wsd", warmup=10, cooldown=0.2), 100)
    values = [rate(step) for step in range(100)]
    assert values[:11] == pytest.approx([0.2 * step for step in range(11)])
    assert set(values[10:81]) == {2.0}
    assert all(a - b == pytest.approx(0.1) for a, b in pairwise(values[80:]))
    assert values[-1] == pytest.approx(0.1)


def test_the_stable_steps_do_not_depend_on_the_end():
    settings = TrainingConfig(schedule="wsd", warmup=10, sampled=4, settle=0.3)
    short, long = LearningRate(settings, 100), LearningRate(settings, 1000)
    assert settings.stable_steps(100) == 70
    assert [short(step) for step in range(70)] == [long(step) for step in range(70)]
    assert LearningConfig(schedule="cosine").stable_steps(100) == 0


@pytest.mark.parametrize("name", ["cooldown", "settle"])
def test_a_share_is_between_0_and_1(name):
    with pytest.raises(ConfigError, match=f"{name} is a share between 0 and 1, not 1.5"):
        TrainingConfig(**{name: 1.5})


def longer(clips, steps: int):
    return tiny(clips, steps=steps, schedule="wsd", cooldown=0.25, sampled=4, settle=0.25, warmup=2)


def test_a_prolonged_run_is_the_long_run(clips, tmp_path):
    """Bit for bit, although it had come to its end before; and it can be shortened again."""
    train(longer(clips, 12), here(tmp_path / "long"))
    train(longer(clips, 8), here(tmp_path / "run", keep=1))
    assert 6 in Run(tmp_path / "run").checkpoints()  # where the fall began
    steps = train(longer(clips, 12), here(tmp_path / "run", resume=True))
    assert [step.step for step in steps] == [*range(7, 13)]
    assert_same_run(tmp_path / "long", tmp_path / "run", 12)


def test_a_run_that_is_stopped_is_ended_by_a_short_fall(clips, tmp_path):
    train(longer(clips, 8), here(tmp_path / "short"))
    stream = pretrain(longer(clips, 100), here(tmp_path / "run", checkpoint_every=3))
    while next(stream).step < 6:
        pass
    stream.close()
    steps = train(longer(clips, 8), here(tmp_path / "run", resume=True))
    assert [step.step for step in steps] == [7, 8]
    assert_same_run(tmp_path / "short", tmp_path / "run", 8)


def test_a_cosine_cannot_be_prolonged(clips, tmp_path):
    train(tiny(clips, steps=4), here(tmp_path / "run"))
    why = "was started for 4 steps and cannot go on to 8: its learning rate depends on their number from the first step on"
    with pytest.raises(RunError, match=re.escape(why)):
        train(tiny(clips, steps=8), here(tmp_path / "run", resume=True))


def test_without_a_checkpoint_before_the_fall_it_says_so(clips, tmp_path):
    train(longer(clips, 12), here(tmp_path / "run"))
    with pytest.raises(RunError, match="it would go on from a checkpoint at or before step 2"):
        train(longer(clips, 3), here(tmp_path / "run", resume=True))


def test_a_run_that_differs_elsewhere_too_is_refused(clips, tmp_path):
    train(longer(clips, 4), here(tmp_path / "run"))
    with pytest.raises(RunError, match=r"training.warmup was 2 and is now 3; training.steps was 4 and is now 8"):
        train(tiny(clips, steps=8, schedule="wsd", cooldown=0.25, sampled=4, settle=0.25, warmup=3),
              here(tmp_path / "run", resume=True))  # fmt: skip
