"""The same run, however it is run: from files or memory, in parts, and left and resumed anywhere."""

import contextlib
import json
import threading
from dataclasses import replace

import pytest
import torch
from tiny import assert_same_run, here, lines, plateau, tiny, train, weights, write_clips

from ssast_lab.learning.pretrain import pretrain
from ssast_lab.learning.run import Run, RunError


@pytest.mark.parametrize("change", [{"in_memory": True}, {"workers": 2}], ids=["memory", "workers"])
def test_where_the_sound_comes_from_changes_nothing(clips, undisturbed, tmp_path, change):
    train(plateau(clips), here(tmp_path / "run", **change))
    one, other = undisturbed, tmp_path / "run"
    assert lines(one) == lines(other)
    assert all(torch.equal(value, weights(other, 12)[name]) for name, value in weights(one, 12).items())
    assert Run(one).unreadable() == Run(other).unreadable()


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_are_the_whole_batch(clips, undisturbed, tmp_path, micro):
    train(plateau(clips), here(tmp_path / "run", micro_batch=micro))
    for one, other in zip(lines(undisturbed), lines(tmp_path / "run"), strict=True):
        for name in {"loss", "nce", "mse", "gradient_norm", "held_out_loss"} & one.keys():
            assert other[name] == pytest.approx(one[name], rel=1e-5), (name, one["step"])


def test_whoever_stops_asking_can_go_on(clips, undisturbed, tmp_path):
    """The generator is left by break, by close, and by a thread; each time a checkpoint is there to go on from."""
    run = here(tmp_path / "run", checkpoint_every=100)
    with contextlib.closing(pretrain(plateau(clips), run)) as steps:
        for step in steps:
            if step.step == 3:
                break
    assert [*Run(run.folder).checkpoints()] == [3]
    for step in pretrain(plateau(clips), replace(run, resume=True)):
        if step.step == 6:
            break
    del step
    assert max(Run(run.folder).checkpoints()) == 6

    def some() -> None:
        steps = pretrain(plateau(clips), replace(run, resume=True))
        seen.extend(next(steps).step for _ in range(2))
        steps.close()

    seen: list[int] = []
    thread = threading.Thread(target=some)
    thread.start()
    thread.join()
    assert seen == [7, 8]
    assert [step.step for step in pretrain(plateau(clips), replace(run, resume=True))] == [9, 10, 11, 12]
    assert_same_run(undisturbed, tmp_path / "run", 12)
    assert train(plateau(clips), replace(run, resume=True)) == []  # nothing is left to do


def test_muon_goes_on_where_it_was(clips, tmp_path):
    whole, halves = here(tmp_path / "whole"), here(tmp_path / "halves")
    train(tiny(clips, optimizer="muon"), whole)
    for step in pretrain(tiny(clips, optimizer="muon"), halves):
        if step.step == 7:
            break
    train(tiny(clips, optimizer="muon"), replace(halves, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "halves", 12)


def test_a_run_is_resumed_only_as_it_was(clips, undisturbed):
    with pytest.raises(RunError, match="There is a run"):
        train(plateau(clips), here(undisturbed))
    with pytest.raises(RunError, match=r"training\.seed was 0 and is now 1\.$"):
        train(plateau(clips, seed=1), here(undisturbed, resume=True))


def test_a_run_is_resumed_only_on_its_own_corpus(tmp_path):
    paths = write_clips(tmp_path / "clips", 8, (0.7, 1.5))
    run = here(tmp_path / "run")
    with contextlib.closing(pretrain(tiny(tmp_path / "clips"), run)) as steps:
        next(steps)
    paths[0].rename(tmp_path / "clips" / "renamed.flac")
    with pytest.raises(RunError, match=r"clips\.train was '7 clips \(\w{12}\)' and is now '7 clips"):
        train(tiny(tmp_path / "clips"), replace(run, resume=True))
    (tmp_path / "clips" / "renamed.flac").rename(paths[0])
    assert train(tiny(tmp_path / "clips"), replace(run, resume=True))[-1].step == 12


def test_a_run_of_an_earlier_release_goes_on(clips, undisturbed, tmp_path):
    """Its checkpoints hold the task's state under another name."""
    run = here(tmp_path / "run")
    with contextlib.closing(pretrain(plateau(clips), run)) as steps:
        while next(steps).step < 5:
            pass
    state = Run(run.folder).read_training(5)
    state["lesson"] = state.pop("task")
    torch.save(state, Run(run.folder).checkpoints()[5] / "training.pt")
    train(plateau(clips), replace(run, resume=True))
    assert_same_run(undisturbed, tmp_path / "run", 12)


def test_a_run_that_was_started_under_older_names_goes_on(clips, tmp_path):
    """Its configuration has a field under its old name, and none of those that came later."""
    train(tiny(clips), here(tmp_path / "whole"))
    with contextlib.closing(pretrain(tiny(clips), here(tmp_path / "old"))) as steps:
        while next(steps).step < 6:
            pass
    path = tmp_path / "old" / "config.json"
    old = json.loads(path.read_text())
    old["training"]["over"] = old["training"].pop("softmax_over")
    assert not {"sampled", "settle", "cooldown", "start_from"} & old["training"].keys()
    path.write_text(json.dumps(old))
    train(tiny(clips), here(tmp_path / "old", resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "old", 12)
