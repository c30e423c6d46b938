"""What goes wrong in training ends in one sentence, and the last checkpoint stays intact."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from tiny import assert_same_run, here, plateau, tiny, train, weights, write_clips

from ssast_lab import data
from ssast_lab.config import ConfigError
from ssast_lab.learning.pretrain import Pretraining, pretrain
from ssast_lab.learning.run import Run, RunError


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_corpus_with_broken_files_trains_and_stops_where_they_are_too_many(clips, tmp_path, in_memory):
    run = here(tmp_path / "run", in_memory=in_memory, unreadable=0.1)
    strict = tiny(clips, steps=40)
    with pytest.raises(RunError, match=r"^2 of 14 clips cannot be read, more than the share of 0\.1") as caught:
        train(strict, run)
    assert "\n" not in str(caught.value)
    folder = Run(run.folder)
    assert {os.path.basename(name) for name in folder.unreadable()} == {"broken.flac", "empty.wav"}
    done = max(folder.checkpoints(), default=0)
    assert done == len(folder.metrics())
    with pytest.raises(RunError, match="2 of 14 clips"):
        train(strict, replace(run, resume=True))
    assert len(train(strict, replace(run, resume=True, unreadable=0.2))) == 40 - done


def test_few_clips_and_broken_held_out_ones(clips, tmp_path):
    one = write_clips(tmp_path / "one", 1)[0]
    with pytest.raises(data.DataError, match="name other sounds to hold out"):
        train(tiny(one), here(tmp_path / "none held out"))
    broken = str(clips / "broken.flac")
    steps = train(tiny(one, data={"held_out": (str(one), broken)}), here(tmp_path / "run", unreadable=0.5))
    assert steps[-1].epoch == 48
    assert steps[-1].evaluation.clips == 2
    assert [*Run(tmp_path / "run").unreadable()] == [broken]
    with pytest.raises(data.DataError, match="No clip that can be read was found"):
        train(tiny(one, data={"held_out": (broken,)}), here(tmp_path / "broken"))
    with pytest.raises(data.DataError, match="nothing to train on"):
        train(tiny(), here(tmp_path / "nothing"))


def test_a_run_that_ended_before_its_first_step_does_not_block_its_folder(clips, tmp_path, caplog):
    """The same command works as soon as its reason is gone, and so does another; a step that was done is kept."""
    held_out, run = tmp_path / "held-out.wav", here(tmp_path / "run")
    shutil.copy(clips / "broken.flac", held_out)
    config = tiny(clips, data={"held_out": (str(held_out),)}, steps=3)
    with pytest.raises(data.DataError, match="No clip that can be read was found"):
        train(config, run)
    folder = Run(run.folder)
    folder.note({"gone.wav": "cannot be read"}, {"damaged.wav": "has a gap"})
    assert (folder.path / "config.json").exists()
    shutil.copy(write_clips(tmp_path / "one", 1)[0], held_out)
    assert not caplog.records
    assert len(train(config, replace(run, unreadable=0.5))) == 3
    (said,) = caplog.messages
    assert said == f"The run in {run.folder} had ended before its first step: it begins anew."
    assert not {"gone.wav", "damaged.wav"} & {*folder.unreadable(), *folder.noticed()}
    starts = json.loads((folder.path / "environment.json").read_text())
    assert [start["from_step"] for start in starts] == [0, 0]
    for again in (run, replace(run, resume=True)):
        with pytest.raises(RunError, match=r"There is a run in|was started with another configuration"):
            train(tiny(clips, data={"held_out": (str(held_out),)}, steps=3, seed=5), again)
    assert len(folder.metrics()) == 3


def test_another_configuration_may_follow_a_run_without_a_step(clips, tmp_path):
    run = here(tmp_path / "run", resume=True)
    with pytest.raises(data.DataError, match="No clip that can be read was found"):
        train(tiny(clips, data={"held_out": (str(clips / "broken.flac"),)}), run)
    assert len(train(tiny(clips, steps=2), replace(run, unreadable=0.5))) == 2
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["steps"] == 2


def test_micro_batches_that_do_not_divide_the_batch_are_refused(clips, tmp_path):
    with pytest.raises(ConfigError, match="Micro-batches of 3 do not divide the 4 clips"):
        train(tiny(clips), here(tmp_path / "run", micro_batch=3))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(clips, tmp_path):
    """Weights are poisoned after a step, once between two checkpoints and once where one would be written."""
    for after, kept in ((6, 4), (8, 4), (2, None)):
        folder = Run(tmp_path / f"run {after}")
        steps = pretrain(tiny(clips, evaluate_every=100), here(folder.path))

        def poisoned(self, step, model, after=after):
            if step == after:
                with torch.no_grad():
                    model.encoder.norm.weight[0] = float("nan")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pretraining, "on_step_end", poisoned)
            with pytest.raises(RunError) as caught:
                list(steps)
        message = str(caught.value)
        said = f"the checkpoint of step {kept} is intact" if kept else "there was no checkpoint yet"
        assert said in message
        assert f"after step {after};" in message if after == 8 else f"at step {after + 1} " in message
        assert "\n" not in message
        named = message.split("The clips of that step: ")[1].rstrip(".").split(", ")
        assert len(named) == 4
        assert all(os.path.exists(name) for name in named)
        assert [*folder.checkpoints()] == ([kept] if kept else [])
        assert len(train(tiny(clips, evaluate_every=100), here(folder.path, resume=True))) == 12 - (kept or 0)


def test_an_absurd_learning_rate_is_noticed(clips, tmp_path):
    run = here(tmp_path / "run", checkpoint_every=1)
    with pytest.raises(RunError, match=r"no finite number.* is intact\. The clips of that step"):
        train(tiny(clips, steps=200, learning_rate=1e30, optimizer="adam", clip_norm=None, warmup=3), run)
    last = max(Run(run.folder).checkpoints())
    assert all(value.isfinite().all() for value in weights(tmp_path / "run", last).values())


@pytest.fixture
def disk(tmp_path):
    """(folder, fill, make room): a file system of 8 MB that is filled up to so many bytes, or, where none may be mounted,
    as small a limit on the size of files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True).returncode:
        filler = folder / "filler"
        yield folder, lambda space: _fill(filler, space), filler.unlink
        subprocess.run(["umount", "-l", folder], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def limit(size: int = soft) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

        yield folder, limit, limit
        limit()


def _fill(filler, space: int) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - space)


@pytest.mark.parametrize("space", [16_384, 300_000])  # for some figures; for the model but not its optimiser
def test_a_full_disk_ends_in_one_sentence_and_the_run_goes_on_when_there_is_room(clips, undisturbed, disk, space):
    folder, fill, make_room = disk
    run = here(folder / "run")
    steps = pretrain(plateau(clips), run)
    assert [next(steps).step for _ in range(6)][-1] == 6
    fill(space)
    with pytest.raises(
        RunError, match=r"cannot be written: .+\. The checkpoint of step 6 is intact; make room"
    ) as caught:
        list(steps)
    make_room()
    assert "\n" not in str(caught.value)
    assert max(Run(run.folder).checkpoints()) == 6
    assert train(plateau(clips), replace(run, resume=True))[0].step == 7
    assert_same_run(undisturbed, folder / "run", 12)
