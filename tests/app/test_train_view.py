"""The view of training: a real run that is seen, heard, left and found again; and that nobody else sees."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from visitor import ROOT, open_tab, shot, stage, until, visit

from ssast_lab import audio, checkpoint
from ssast_lab.app import trainings as core
from ssast_lab.app.trainings import Plan, Training, TrainingError, Trainings
from ssast_lab.learning.run import Run

NAME = "0123456789abcdef" * 2


def begin(page, steps="300"):
    open_tab(page, "Train")
    view = page.locator("#view-train")
    view.locator("[name=steps]").select_option(steps)
    view.get_by_role("button", name="Train", exact=True).click()
    view.locator(".train-said", has_text="step").wait_for()
    return view


def at_step(page, step):
    page.wait_for_function(
        f"parseInt(document.querySelector('#view-train .train-said').textContent.slice(5)) >= {step}"
    )


def end(page, view):
    view.get_by_role("button", name="Stop", exact=True).click()
    view.get_by_role("button", name="Go on").wait_for()


def test_a_run_is_seen_heard_left_and_found_again(page, browser, server):
    view = begin(page)
    view.locator(".train-drawn", has_text="MSE").wait_for()
    assert view.locator(".train-charts svg").count() == 4
    assert "reference" in view.locator(".train-charts").inner_text()
    at_step(page, 40)
    assert view.locator(".train-diagnosis").inner_text().endswith(".")
    assert "left" in view.locator(".train-said").inner_text()
    view.locator("[data-play=reconstructed]").click()
    page.wait_for_function("document.querySelector('#view-train .view-body').dataset.playing === 'reconstructed'")
    shot(page, "train")

    kept = page.evaluate("localStorage.getItem('ssast-lab-training')")
    again = page.context.new_page()  # the same visitor closes the tab and comes back
    page.close()
    again.goto(server)
    until(again, "s.picture")
    open_tab(again, "Train")
    again.locator("#view-train .train-said", has_text="step").wait_for()
    assert again.evaluate("localStorage.getItem('ssast-lab-training')") == kept
    view = again.locator("#view-train")
    end(again, view)
    before = int(view.locator(".train-said").inner_text().split()[1])
    assert "stopped" in view.locator(".train-said").inner_text()

    view.get_by_role("button", name="Use it in the other views").click()
    until(again, "s.settled && s.picture.grid.columns > 0")
    again.get_by_label("My training, step").wait_for()
    assert again.get_by_label("My training, step").is_checked()
    with again.expect_download() as download:
        view.get_by_role("button", name="Keep a copy").click()
    assert download.value.suggested_filename.startswith("my-training-")

    view.get_by_role("button", name="Go on").click()
    at_step(again, before + 1)
    end(again, view)
    for stranger in visit(browser, server):  # another visitor finds a form, and no run
        open_tab(stranger, "Train")
        stranger.locator("#view-train .train-form").wait_for()
        assert stranger.locator("#view-train .train-run").is_hidden()
        assert stranger.get_by_label("My training").count() == 0
    again.close()


def test_own_sounds_are_learned_from(page, sounds):
    open_tab(page, "Train")
    view = page.locator("#view-train")
    view.locator("[name=source]").select_option("own")
    view.get_by_role("button", name="Train", exact=True).click()
    view.get_by_text("Choose some files first.").wait_for()
    view.locator("input[type=file]").set_input_files([sounds["long.flac"]])
    view.locator("[name=kind]").select_option("frame")
    view.get_by_role("button", name="Train", exact=True).click()
    view.locator(".train-said", has_text="on long.flac").wait_for()
    at_step(page, 2)
    assert stage(page, "s.picture.grid.rows") > 1
    end(page, view)


# --- the processes --------------------------------------------------------------------------------------------------


def waves():
    return [audio.load_waveform(audio.builtin_sounds()[name]["path"]) for name in ("tabla", "guitar")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    trainings = Trainings()
    yield trainings
    trainings.close()
    assert list(tmp_path.iterdir()) == []


def wait(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_it_stops_with_a_checkpoint_and_goes_on(here):
    training = here.start(NAME, Plan("frame", 300, "two sounds"), waves())
    assert here.start(NAME, Plan("patch", 300, "others"), []) is training  # the same question again
    assert here.find("0" * 32) is None
    with pytest.raises(TrainingError, match="a name"):
        here.start("mine", training.plan, waves())
    wait(lambda: training.step > 3)
    training.stop()
    wait(lambda: not training.running)
    assert training.state == "stopped"
    step, folder = training.keep("Mine")
    assert max(training.run.checkpoints()) == training.step
    assert checkpoint.load(folder).config.depth == 4
    assert checkpoint.describe(folder)["about"]["title"] == "Mine"
    training.start()
    wait(lambda: training.step > step)
    assert training.running


def test_the_command_that_is_shown_is_the_one_that_is_run_without_places(tmp_path):
    from ssast_lab.app.views.train import shown

    training = Training(Plan("frame", 300, "two sounds"), tmp_path)
    said = shown(training)
    assert said[:3] == ["ssast-lab", "pretrain", "quick-nano-frame-400"]
    assert [*zip(said[3::2], said[4::2])] == [
        (flag, value.removeprefix(f"{tmp_path}/"))
        for flag, value in zip(*[iter(training.plan.command(tmp_path)[2:])] * 2)
    ]
    assert "--data.train train" in " ".join(said)


def test_only_so_many_run_at_once(here, monkeypatch):
    monkeypatch.setattr(core, "AT_ONCE", 1)
    here.start(NAME, Plan("frame", 300, "two sounds"), waves())
    with pytest.raises(TrainingError, match="under way"):
        here.start("f" * 32, Plan("frame", 300, "two sounds"), waves())


def test_too_little_sound_gets_a_sentence(here):
    with pytest.raises(TrainingError, match="too little sound"):
        here.start(NAME, Plan("frame", 300, "a click"), [torch.randn(1600)])


SERVER = """
import os, sys, time
from test_train_view import NAME, waves
from ssast_lab.app.trainings import Plan, Trainings
from contextlib import closing
import signal
signal.signal(signal.SIGTERM, signal.default_int_handler)
with closing(Trainings()) as trainings:
    training = trainings.start(NAME, Plan("frame", 4000, "two sounds"), waves())
    while training.step < 2:
        time.sleep(0.1)
    print(training.process.pid, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def serving(tmp_path):
    """(server, number of the process that trains)"""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "app")))
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": paths, "GRADIO_TEMP_DIR": str(tmp_path)},
    )  # fmt: skip
    child = int(server.stdout.readline())
    assert psutil.pid_exists(child)
    yield server, child
    server.kill()
    server.wait()


def test_the_servers_end_ends_it(serving, tmp_path):
    server, child = serving
    server.send_signal(signal.SIGTERM)
    server.wait(120)
    server.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_killed_leaves_no_training_but_its_checkpoint(serving, tmp_path):
    server, number = serving
    child = psutil.Process(number)
    server.kill()
    wait(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)  # nobody may be there to bury it
    server.stdout.close()
    (path,) = tmp_path.rglob("metrics.jsonl")
    run = Run(path.parent)
    assert 2 <= max(run.checkpoints()) == run.metrics()[-1]["step"] < 4000
    assert not [*run.path.rglob(".writing-*")]
    assert checkpoint.load(run.path).config.depth == 4


def test_the_reference_is_of_held_out_clips():
    from ssast_lab.app.views.train import reference

    curves = reference()
    assert {"patch 300", "frame 300"} <= set(curves)
    for curve in curves.values():
        assert curve["step"] == sorted(curve["step"])
        assert min(curve["mse"]) < curve["mse"][0]
        json.dumps(curve, allow_nan=False)
