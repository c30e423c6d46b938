"""The folder of a run: refusals that teach, whole files only, the best and the last checkpoints."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from tiny import tiny

from ssast_lab import checkpoint
from ssast_lab.checkpoint import own
from ssast_lab.config import ConfigError, RunConfig, to_dict
from ssast_lab.learning.interrupts import Interrupts
from ssast_lab.learning.run import Run, RunError
from ssast_lab.model import SSAST

CONFIG = {"model": {"width": 32, "patch": (16, 16)}, "training": {"seed": 0}}


@pytest.fixture(scope="module")
def model():
    return SSAST(tiny().model)


def begun(path, keep=2) -> Run:
    run = Run(path, keep)
    run.begin(CONFIG, run.open(CONFIG, resume=True))
    return run


def save(run, model, step, loss=None, figure=None):
    run.save(step, model, {"optimizer": {}, "rate": {"best": float(step)}}, {"steps": step}, loss, figure)


def test_a_run_is_neither_overwritten_nor_mixed(tmp_path):
    run = Run(tmp_path / "a run")
    assert run.open(CONFIG, resume=False) == run.open(CONFIG, resume=True) == 0
    assert not run.path.exists()  # open only looks
    run.begin(CONFIG, 0)
    run.log({"step": 1, "loss": 1.0})
    with pytest.raises(RunError, match=r"There is a run in .*resume it"):
        run.open(CONFIG, resume=False)
    assert run.open(CONFIG, resume=True) == 0
    changed = {"model": {"width": 64, "patch": (16, 16)}, "training": {"seed": 1}}
    with pytest.raises(RunError) as caught:
        run.open(changed, resume=True)
    assert "model.width was 32 and is now 64; training.seed was 0 and is now 1." in str(caught.value)
    (run.path / "config.json").unlink()
    (run.path / "checkpoints" / "step-00000004").mkdir(parents=True)
    with pytest.raises(RunError, match="choose another folder"):
        run.open(CONFIG, resume=False)


def test_config_and_environment_are_kept(tmp_path):
    config = to_dict(tiny(tmp_path))
    run = Run(tmp_path / "run")
    for _ in range(3):
        run.begin(config, run.open(config, resume=True))
    assert json.loads((run.path / "config.json").read_text()) == json.loads(json.dumps(config))
    starts = json.loads((run.path / "environment.json").read_text())
    assert [start["from_step"] for start in starts] == [0, 0, 0]
    assert {"torch", "python", "device", "arguments", "started", "processes"} <= starts[0].keys()
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None
    assert (starts[0]["commit"] or "").rstrip("+") == (head or "")


def test_the_last_and_the_best_are_kept(tmp_path, model):
    run = begun(tmp_path / "run", keep=2)
    for step, loss in enumerate([5.0, 3.0, None, 4.0, float("nan"), 3.5, 3.0], 1):
        save(run, model, step, loss)
    assert [*run.checkpoints()] == [2, 6, 7]
    assert run.best() == {"step": 2, "loss": 3.0}
    save(run, model, 8, 2.0)
    assert [*run.checkpoints()] == [7, 8]
    assert not [*run.path.glob("**/.*")]
    assert run.open(CONFIG, resume=True) == 8
    assert run.read_training(8) == {"optimizer": {}, "rate": {"best": 8.0}}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in run.read_weights(8).items())


def test_a_run_folder_is_a_model(tmp_path, model):
    run = begun(tmp_path / "run", keep=3)
    (run.path / "checkpoints").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint") as caught:
        checkpoint.load(run.path)
    assert "\n" not in str(caught.value)
    save(run, model, 1)
    save(run, model, 2)
    assert checkpoint.describe(run.path)["about"]["steps"] == 2  # the last, while none was evaluated
    save(run, model, 3, 1.0)
    save(run, model, 4, 2.0)
    assert checkpoint.describe(run.path)["about"] == {"steps": 3, "held_out_loss": 1.0}
    assert isinstance(checkpoint.load(run.path), SSAST)
    assert checkpoint.describe(run.checkpoints()[4])["about"]["steps"] == 4


def test_a_copy_of_a_checkpoint_beside_it_is_left_alone(tmp_path, model):
    run = begun(tmp_path / "run", keep=1)
    save(run, model, 1)
    copy = run.path / "checkpoints" / "step-00000001.good"
    shutil.copytree(run.checkpoints()[1], copy)
    save(run, model, 2)
    assert [*run.checkpoints()] == [2]
    assert checkpoint.describe(run.path)["about"]["steps"] == 2
    assert run.open(CONFIG, resume=True) == 2
    assert checkpoint.describe(copy)["about"]["steps"] == 1


@pytest.mark.parametrize("reads", ["read_description", "read_tensors"])
def test_a_model_is_read_from_a_run_that_removes_it_meanwhile(tmp_path, model, monkeypatch, reads):
    run = begun(tmp_path / "run", keep=1)
    save(run, model, 1, 3.0)
    original = getattr(own, reads)

    def read(*arguments):
        if 2 not in run.checkpoints():
            save(run, model, 2, 1.0)
        return original(*arguments)

    monkeypatch.setattr(own, reads, read)
    assert isinstance(checkpoint.load(run.path), SSAST)
    assert checkpoint.describe(run.path)["about"]["steps"] == 2
    assert [*run.checkpoints()] == [2]
    with pytest.raises(checkpoint.CheckpointError, match="There is no model"):
        checkpoint.load(run.path / "checkpoints" / "step-00000001")


def test_what_a_kill_leaves_is_cleaned(tmp_path, model):
    run = begun(tmp_path / "run")
    for step in (2, 4):
        run.log({"step": step - 1, "loss": 1.0})
        run.log({"step": step, "loss": 0.1 + 0.2})
        save(run, model, step, 10.0 - step)
    whole = {path: path.read_bytes() for path in run.path.glob("checkpoints/**/*") if path.is_file()}
    # killed after two more steps were logged and one was being so, while a checkpoint was written and before the note on
    # the best one was
    run.log({"step": 5, "loss": 1.0})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    (run.path / "unreadable.tsv").write_text("a b.wav\tis empty\nc.wav")
    (run.path / "samples").mkdir()
    for step in (4, 5):
        (run.path / "samples" / f"step-{step:08d}.npz").touch()
    left = run.path / "checkpoints" / ".writing-step-00000006"
    (left / "model" / ".writing-x").mkdir(parents=True)
    (left / "training.pt").write_bytes(b"half")
    (run.path / ".writing-best.json").write_text("{")
    (run.path / "best.json").write_text(json.dumps({"step": 2, "loss": 8.0}))

    assert len(run.metrics()) == 5  # a reader of a run that is going on sees whole lines only
    assert run.open(CONFIG, resume=True) == 4
    run.begin(CONFIG, 4)
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4]
    assert run.metrics()[-1]["loss"] == 0.1 + 0.2
    assert run.unreadable() == {"a b.wav": "is empty"}
    assert [path.name for path in (run.path / "samples").iterdir()] == ["step-00000004.npz"]
    assert not [*run.path.glob("**/.*")]
    assert run.best() == {"step": 4, "loss": 6.0}
    assert whole == {path: path.read_bytes() for path in run.path.glob("checkpoints/**/*") if path.is_file()}
    run.log({"step": 5, "loss": 2.0})
    assert run.metrics()[-1] == {"step": 5, "loss": 2.0}


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("config.json", b'{"model": {', "put it back, or choose another folder"),
        ("environment.json", b"", "delete it and resume"), ("best.json", b"\xff", "delete it and resume"),
        ("metrics.jsonl", b"\0\0\n", "delete it and resume"),
        ("checkpoints/step-00000002/training.pt", None, "delete .*step-00000002 and resume"),
        ("checkpoints/step-00000002/training.pt", b"", "delete .*step-00000002 and resume"),
        ("checkpoints/step-00000002/training.pt", b"PK\3\4" + bytes(99), "delete .*step-00000002 and resume"),
        ("checkpoints/step-00000002/model/config.json", b"{", "delete .*step-00000002 and resume"),
        ("checkpoints/step-00000002/model/model.safetensors", b"", "delete .*step-00000002 and resume"),
    ],
)  # fmt: skip
def test_what_a_power_cut_leaves_is_one_sentence(tmp_path, model, name, content, advice):
    def resume() -> int:
        start = run.open(CONFIG, resume=True)
        run.begin(CONFIG, start)
        if start:
            run.read_weights(start)
            run.read_training(start)
        return start

    run = begun(tmp_path / "run")
    for step in (1, 2):
        run.log({"step": step})
        save(run, model, step, 3.0 - step)
    assert resume() == 2
    damaged = run.path / name
    damaged.unlink() if content is None else damaged.write_bytes(content)
    with pytest.raises(RunError, match=f"damaged .*{advice}") as caught:
        resume()
    assert "\n" not in str(caught.value)
    if "choose" not in advice:  # the advice is good
        parts = damaged.relative_to(run.path).parts
        shutil.rmtree(run.path / parts[0] / parts[1]) if parts[1:] else damaged.unlink()
        assert resume() == (1 if parts[1:] else 2)


def test_a_first_line_that_was_cut_short_is_not_glued_to_the_next(tmp_path):
    run = begun(tmp_path / "run")
    (run.path / "metrics.jsonl").write_text('{"step": 1, "lo')
    run.begin(CONFIG, 0)
    run.log({"step": 1})
    assert run.metrics() == [{"step": 1}]


def test_a_save_that_fails_leaves_what_was_there(tmp_path, model, monkeypatch):
    run = begun(tmp_path / "run")
    save(run, model, 1, 3.0)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(run, model, 2, 1.0)
    assert [*run.checkpoints()] == [1]
    assert run.best() == {"step": 1, "loss": 3.0}
    assert not [*run.path.glob("**/.*")]


def test_unreadable_clips_of_any_name(tmp_path):
    run = begun(tmp_path / "run")
    names = [
        "a.wav",
        "with\ttab.wav",
        "ü \u2028.wav",
        b"latin-\xfc.wav".decode("utf-8", "surrogateescape"),
        "x.tar:b.ogg",
    ]
    for name in names:
        run.note({name: "cannot be\nread\tat all"}, {})
    assert run.unreadable() == dict.fromkeys(names, "cannot be read at all")
    run.log({"step": 1, "loss": 1.0})
    run.begin(CONFIG, 0)
    assert [*run.unreadable()] == names


def test_a_figure_that_is_not_known_is_read_again_and_chooses_nothing(model, tmp_path):
    run = begun(tmp_path / "run")
    run.log({"step": 1, "loss": 0.5, "held_out_accuracy": math.nan})
    (line,) = run.metrics()
    assert math.isnan(line.pop("held_out_accuracy"))
    assert line == {"step": 1, "loss": 0.5}
    for step, figure in ((1, math.nan), (2, 0.25), (3, math.nan)):
        save(run, model, step, 0.5, ("mAP", figure))
    assert run.best() == {"step": 2, "loss": 0.5, "by": "mAP", "value": 0.25}
    run.begin(CONFIG, 3)  # notes it once more, from what the checkpoint says
    assert run.best()["step"] == 2


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        RunError, match=r"cannot be written: .* No checkpoint had been written; move away what lies there"
    ):
        Run(tmp_path / "file").begin(CONFIG, 0)


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "make room"), (errno.EACCES, "make it writable"), (errno.EIO, "see to that")]
)
def test_the_advice_is_for_what_is_wrong(tmp_path, number, advice):
    with (
        pytest.raises(RunError, match=rf"{os.strerror(number)}\. .*; {advice}.* and resume\.$"),
        Run(tmp_path).writing(),
    ):
        raise OSError(number, os.strerror(number))


def test_interrupts_ask_first_and_interrupt_then():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts() as stop_requested:
        assert not stop_requested
        signal.raise_signal(signal.SIGTERM)
        assert stop_requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def elsewhere() -> None:
        with Interrupts() as stop_requested:
            seen.append(bool(stop_requested))

    seen: list[bool] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_run_hands_out_its_best_model_with_its_history(tmp_path, model):
    corpus = tmp_path / "corpus"
    (corpus / "train").mkdir(parents=True)
    (corpus / "manifest.json").write_text(json.dumps({"size": "small", "sha256": "abc", "packages": {"x": 1}}))
    config = to_dict(tiny(corpus / "train"))
    run = Run(tmp_path / "run", keep=1)
    run.begin(config, run.open(config, resume=False))
    with pytest.raises(RunError, match="no checkpoint yet"):
        run.export(tmp_path / "out", {})
    (run.path / "metrics.jsonl").touch()
    with pytest.raises(checkpoint.CheckpointError, match=r"The run in .* has written no checkpoint yet"):
        checkpoint.load(tmp_path / "run")
    for step, loss in ((5, 0.5), (10, 0.75)):
        run.log({"step": step, "loss": 1.0, "held_out_loss": loss, "held_out_mse": loss / 10})
        save(run, model, step, loss)
    run.log({"step": 11, "loss": 1.0})

    out = run.export(tmp_path / "out", {"title": "A model"})
    about = checkpoint.describe(out)["about"]
    assert (about["title"], about["steps"], about["clips"]) == ("A model", 5, 20)
    assert about["held_out"] == {"step": 5, "loss": 0.5, "mse": 0.05}
    assert [line["step"] for line in about["curves"]] == [5, 10]
    assert [(c["size"], c["sha256"]) for c in about["corpus"]] == [("small", "abc")]
    assert about["recipe"]["training"] == json.loads(json.dumps(config["training"]))
    assert about["torch"] == torch.__version__
    assert [(stretch["clips"], stretch["loss"]) for stretch in about["learned"]] == [(20, 1.0), (40, 1.0), (44, 1.0)]
    kept, given = checkpoint.load(run.checkpoints()[5]).state_dict(), checkpoint.load(out).state_dict()
    assert all(torch.equal(value.half().float(), given[name]) for name, value in kept.items())
    with pytest.raises(RunError, match="is there already"):
        run.export(out, {})


@pytest.mark.parametrize(
    ("name", "content"),
    [("best.json", "{}"), ("best.json", "[]"), ("metrics.jsonl", "[1]\n"), ("metrics.jsonl", '{"loss": 1}\n')],
)
def test_a_file_of_a_run_that_holds_something_else_is_named(tmp_path, name, content):
    run = begun(tmp_path / "run")
    (run.path / name).write_text(content)
    with pytest.raises(RunError, match=rf"{name} is damaged .*delete it and resume\.$"):
        run.begin(CONFIG, run.open(CONFIG, resume=True))


@pytest.mark.parametrize("name", ["", "  "])
def test_a_run_without_a_folder_is_refused(name):
    with pytest.raises(ConfigError, match="no folder"):
        RunConfig(folder=name)
