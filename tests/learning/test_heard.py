"""A run goes on only with the clips that it was started with: in another place if you like, but with no other content."""

import contextlib
import json
import logging
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, assert_same_run, here, tiny, train, write_clips

from ssast_lab import checkpoint, data
from ssast_lab.__main__ import main
from ssast_lab.config import model_config
from ssast_lab.learning.pretrain import pretrain
from ssast_lab.learning.run import Run, RunError
from ssast_lab.model import SSAST

LONG = (0.7, 1.5)  # seconds: each fills a window


@pytest.fixture
def begun(tmp_path):
    """(clips, run): half of a run on ten clips in two folders."""
    write_clips(tmp_path / "clips" / "a", 6, LONG)
    write_clips(tmp_path / "clips" / "b", 4, LONG)
    run = here(tmp_path / "run")
    with contextlib.closing(pretrain(tiny(tmp_path / "clips"), run)) as steps:
        while next(steps).step < 6:
            pass
    return tmp_path / "clips", replace(run, resume=True)


def test_a_run_goes_on_with_clips_that_were_moved(begun, tmp_path):
    clips, run = begun
    shutil.copytree(tmp_path / "run", tmp_path / "undisturbed")
    train(tiny(clips), replace(run, folder=str(tmp_path / "undisturbed")))
    moved = shutil.copytree(clips, tmp_path / "elsewhere" / "new", copy_function=shutil.copyfile)  # with new dates
    shutil.rmtree(clips)
    train(tiny(moved), run)
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run", 12)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["train"] == [str(moved)]
    assert train(tiny(moved), run) == [], "and again from there"


def test_other_sounds_elsewhere_are_another_run(begun, tmp_path):
    clips, run = begun
    moved = shutil.copytree(clips, tmp_path / "new")
    other = moved / "a" / "003.flac"
    content = bytearray(other.read_bytes())
    content[len(content) // 2] ^= 1
    other.write_bytes(content)
    with pytest.raises(RunError, match=r"data\.train was .*\. 1 of its clips, such as .*a/003.flac, are no longer"):
        train(tiny(moved), run)
    (moved / "b" / "009.flac").write_bytes(content)
    with pytest.raises(
        RunError, match=r"was started with another configuration.*\. Its train set had 9 clips and has 10\.$"
    ):
        train(tiny(moved), run)


def test_a_run_keeps_its_division_where_clips_are_divided_otherwise_now(tmp_path, monkeypatch):
    """An hour among short ones was held out by releases that did not look at lengths."""
    clips, run = tmp_path / "clips", here(tmp_path / "run")
    write_clips(clips, 9, (0.7, 0.8))
    soundfile.write(clips / "hour.flac", 0.1 * np.random.default_rng(0).standard_normal(60 * RATE), RATE)
    config = next(
        tiny(clips, seed=seed, data={"held_out_clips": 1})
        for seed in range(99)
        if np.random.default_rng([seed, data.Stream.SPLIT]).permutation(10)[0] == 9
    )
    with monkeypatch.context() as earlier:
        earlier.setattr("ssast_lab.data.clips.FEW", 0)
        with contextlib.closing(pretrain(config, run)) as steps:
            while next(steps).step < 4:
                pass
    held_out = {"held_out": [str(clips / "hour.flac")]}
    assert names_of(run) | held_out == names_of(run)
    assert train(config, replace(run, resume=True))[-1].step == 12
    assert names_of(run) | held_out == names_of(run)
    train(config, replace(run, folder=str(tmp_path / "new")))
    assert str(clips / "hour.flac") in names_of(replace(run, folder=str(tmp_path / "new")))["train"]
    other = tiny(clips, seed=config.training.seed, data={"held_out": (str(clips / "000.flac"),)})
    with pytest.raises(RunError, match="was started with another configuration"):
        train(other, replace(run, resume=True))


def names_of(run) -> dict[str, list[str]]:
    return {name: kept["names"] for name, kept in Run(run.folder).clips()["sets"].items()}


@pytest.mark.parametrize("keep_date", [True, False])
def test_another_sound_of_the_same_name_is_noticed(begun, keep_date):
    clips, run = begun
    path = clips / "b" / "002.flac"
    before, status = path.read_bytes(), path.stat()
    soundfile.write(path, np.zeros(RATE), RATE)
    if keep_date:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(
        RunError, match=r"1 of its clips, such as .*b/002.flac, are no longer .* or delete .*clips.json"
    ) as caught:
        train(tiny(clips), run)
    assert "\n" not in str(caught.value)
    path.write_bytes(before)
    assert train(tiny(clips), run)[-1].step == 12, "the same content under another date is the same"


def test_contents_are_looked_at_where_that_was_asked(tmp_path):
    (path, *_) = write_clips(tmp_path / "clips", 8, LONG)
    for contents in (False, True):
        run = here(tmp_path / f"run {contents}", contents=contents)
        with contextlib.closing(pretrain(tiny(tmp_path / "clips"), run)) as steps:
            next(steps)
    status, content = path.stat(), bytearray(path.read_bytes())
    place = 4096 + (len(content) // 2 - 4096) // 2  # between the parts that are always looked at
    assert place < len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(RunError, match=r"1 of its clips, such as .*000.flac"):
        train(tiny(tmp_path / "clips"), here(tmp_path / "run True", resume=True))
    assert train(tiny(tmp_path / "clips"), here(tmp_path / "run False", resume=True))[-1].step == 12


def test_a_clip_that_was_mended_is_heard(tmp_path):
    write_clips(tmp_path / "clips", 8, LONG)
    good = (tmp_path / "clips" / "003.flac").read_bytes()
    for name in ("003.flac", "004.flac"):
        (tmp_path / "clips" / name).write_bytes(b"fLaC" + bytes(500))
    run = here(tmp_path / "run", unreadable=0.1, in_memory=True)
    with pytest.raises(
        RunError,
        match=r"2 of 8 clips cannot be read.*mend them, or allow more \(--run.unreadable .*and go on by --run.resume",
    ):
        train(tiny(tmp_path / "clips", data={"held_out_clips": 1}), run)
    (tmp_path / "clips" / "003.flac").write_bytes(good)
    train(tiny(tmp_path / "clips", data={"held_out_clips": 1}), replace(run, resume=True, unreadable=0.15))
    assert [os.path.basename(name) for name in Run(run.folder).unreadable()] == ["004.flac"]


def test_another_date_of_which_nothing_more_is_known_is_said(begun, caplog):
    clips, run = begun
    path = Run(run.folder).path / "clips.json"
    kept = json.loads(path.read_text())
    for one in kept["sets"].values():
        one["sums"] = {}
    path.write_text(json.dumps(kept))
    os.utime(clips / "a" / "001.flac", ns=(0, 0))
    with caplog.at_level(logging.WARNING, "ssast_lab"):
        train(tiny(clips), run)
    assert "1 of its clips, such as" in caplog.text
    assert "a/001.flac, have another date" in caplog.text


def test_a_run_of_an_earlier_release_has_no_such_list(begun):
    clips, run = begun
    (Run(run.folder).path / "clips.json").unlink()
    assert train(tiny(clips), run)[-1].step == 12
    assert (Run(run.folder).path / "clips.json").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "nothing"])
def test_a_damaged_list_of_clips_is_one_sentence(begun, content):
    clips, run = begun
    (Run(run.folder).path / "clips.json").write_text(content)
    with pytest.raises(RunError, match=r"clips.json is damaged .*: delete it and resume\.$"):
        train(tiny(clips), run)


@pytest.mark.parametrize("part", ["training.pt", "model"])
def test_the_state_of_another_model_is_refused(begun, tmp_path, part):
    clips, run = begun
    train(tiny(clips, model={"width": 64}, steps=6), here(tmp_path / "other"))
    own, other = (Run(folder).checkpoints()[6] for folder in (run.folder, tmp_path / "other"))
    if part == "model":
        shutil.rmtree(own / "model")
        shutil.copytree(other / "model", own / "model")
    else:
        shutil.copy(other / part, own / part)
    with pytest.raises(
        RunError, match=r"step 6 is damaged \(.* another model's\): delete .*step-00000006 and resume"
    ) as caught:
        train(tiny(clips), run)
    assert "\n" not in str(caught.value)
    shutil.rmtree(own)
    assert train(tiny(clips), run)[-1].step == 12


def test_a_state_that_is_something_else_is_refused(begun):
    clips, run = begun
    torch.save([1, 2, 3], Run(run.folder).checkpoints()[6] / "training.pt")
    with pytest.raises(RunError, match=r"step 6 is damaged \(training.pt"):
        train(tiny(clips), run)


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_run_that_is_not_there_is_said_to_begin(tmp_path, name, capsys):
    """A job that is always started with --run.resume may begin like that; what else is wrong ends it here."""
    with pytest.raises(SystemExit, match=r"No (sound was found|labelled sound)"):
        main([name, "--data.train", str(tmp_path), "--run.folder", str(tmp_path / "nowhere"), "--run.resume"])
    assert capsys.readouterr().err == f"There is no run to resume in {tmp_path / 'nowhere'}: a new one begins there.\n"
    assert not (tmp_path / "nowhere").exists()


def test_an_evaluation_of_sounds_of_any_name_is_printed(tmp_path, capfdbinary):
    """Names that are no UTF-8 are escaped, and what was measured is not lost."""
    (good,) = write_clips(tmp_path / "clips", 1, LONG)
    os.rename(good, os.path.join(os.fsencode(good.parent), b"caf\xe9.flac"))
    (good.parent / os.fsdecode(b"broken\xff.flac")).write_bytes(b"fLaC" + bytes(500))
    checkpoint.save(SSAST(model_config("nano-patch", depth=1, frames=64)), tmp_path / "model")
    main(["info", str(tmp_path / "model"), "--evaluate", str(good.parent), "--counts", "12"])
    said = capfdbinary.readouterr().out.decode("utf-8")
    assert "MSE" in said
    assert r"broken\udcff.flac" in said
