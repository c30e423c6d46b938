"""The pretraining loop: it learns, it can be stopped and resumed anywhere, and what goes wrong is said in one sentence."""

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from accelerate import Accelerator
from tiny import ALONE, command, here, tiny, write_clips

from ssast_lab import checkpoint, config, data
from ssast_lab.config import SIZES, ConfigError, TrainingConfig, to_dict
from ssast_lab.learning import pretrain, training
from ssast_lab.learning.pretrain import draw_masks
from ssast_lab.learning.run import Run, RunError
from ssast_lab.learning.training import LearningRate
from ssast_lab.model import SSAST

TIMING = ("clips_per_second", "seconds")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twelve sounds and two files that are none, which is 1 in 7."""
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 12)
    (folder / "broken.flac").write_bytes(b"fLaC" + bytes(500))
    (folder / "empty.wav").touch()
    return folder


def train(*arguments, **more) -> list[pretrain.Step]:
    return [*pretrain.pretrain(*arguments, **more)]


def weights(folder, step: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints" / f"step-{step:08d}").state_dict()


def lines(folder) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in TIMING} for line in Run(folder).metrics()]


def assert_same_run(one, other, step: int) -> None:
    """Bit for bit: all logged figures, the final weights and the state of the optimiser."""
    assert lines(one) == lines(other)
    assert [line["step"] for line in lines(one)] == [*range(1, step + 1)]
    a, b = weights(one, step), weights(other, step)
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = Run(one).read_training(step), Run(other).read_training(step)
    assert a["rate"] == b["rate"]
    for key, state in a["optimizer"]["state"].items():
        assert all(torch.equal(value, b["optimizer"]["state"][key][name]) for name, value in state.items())
    assert Run(one).best() == Run(other).best()
    assert Run(one).unreadable() == Run(other).unreadable()


# --- what a run is ------------------------------------------------------------------------------------------------


def test_a_run_leaves_what_its_folder_promises(clips, tmp_path):
    steps = train(tiny(clips), here(tmp_path / "a run"))
    folder = Run(tmp_path / "a run")
    assert [step.step for step in steps] == [*range(1, 13)]
    assert [step.step for step in steps if step.evaluation] == [5, 10, 12]
    assert [*folder.checkpoints()] == sorted({10, 12, folder.best()["step"]})
    assert folder.best()["loss"] == min(step.evaluation.loss for step in steps if step.evaluation)
    for step, line in zip(steps, folder.metrics(), strict=True):
        assert line["loss"] == step.loss == pytest.approx(step.nce + 10 * step.mse, rel=1e-5)
        assert line.get("held_out_loss") == (step.evaluation and step.evaluation.loss)
        assert step.clips_per_second > 0
    assert {os.path.basename(name) for name in folder.unreadable()} == {"broken.flac", "empty.wav"}
    with np.load(folder.path / "samples" / "step-00000005.npz") as sample:
        assert np.array_equal(sample["original"], np.stack([r.original for r in steps[4].reconstructions]))
        assert sample["mask"].sum(1).tolist() == [12] * len(sample["mask"])
    model = checkpoint.load(folder.checkpoints()[12] / "model")
    assert isinstance(model, SSAST)
    about = checkpoint.describe(folder.checkpoints()[12])["about"]
    assert config.from_dict(config.PretrainConfig, about["recipe"]) == tiny(clips)


def test_a_model_learns_one_batch_by_heart(tmp_path):
    write_clips(tmp_path / "clips", 4, seconds=(0.655, 0.655))
    steps = train(
        tiny(tmp_path / "clips", data={"held_out": (str(tmp_path / "clips"),)}, steps=400, learning_rate=4e-3, warmup=20,
             evaluate_every=400),
        here(tmp_path / "run", in_memory=True, checkpoint_every=400),
    )  # fmt: skip
    assert steps[0].accuracy < 0.3  # chance is 1 in 12
    assert np.mean([step.loss for step in steps[-20:]]) < 0.4 * steps[0].loss
    assert np.mean([step.accuracy for step in steps[-20:]]) > 0.9
    assert steps[-1].evaluation.accuracy > 0.9


@pytest.mark.parametrize("recipe_name", ["official", "modern", "quick"])
@pytest.mark.parametrize("kind", ["patch", "frame"])
@pytest.mark.parametrize("size", SIZES)
def test_every_preset_builds_as_published(recipe_name, size, kind):
    for count in (400, 250, 100):
        preset = config.pretrain_config(f"{recipe_name}-{size}-{kind}-{count}", train=("x",))
        with torch.device("meta"):
            model = SSAST(preset.model)
        assert model.grid.count == 512
        assert preset.mask == config.MaskConfig(count, (3, 5) if kind == "patch" else None)
        masks = draw_masks(preset.model.grid, preset.mask, 2, preset.training.seed, 0)
        assert masks.sum(1).tolist() == [count] * 2
        assert config.from_dict(config.PretrainConfig, json.loads(json.dumps(to_dict(preset)))) == preset
        assert preset.training.optimizer == {"official": "adam", "modern": "adamw", "quick": "muon"}[recipe_name]
        if recipe_name == "official":
            t, little = preset.training, size in ("nano", "tiny")
            assert (t.optimizer, t.betas, t.weight_decay, t.clip_norm) == ("adam", (0.95, 0.999), 5e-7, None)
            assert (t.schedule, t.patience, t.warmup, t.warmup_every) == ("plateau", 2, 1000, 50)
            assert (t.batch, t.learning_rate) == ((120, 5e-4) if little else (24, 1e-4))
            assert (t.softmax_over, t.nce_weight, t.mse_weight, t.evaluate_every) == ("predictions", 1, 10, 4000)


# --- the learning rate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_plateau_is_torchs(mode):
    scores = np.random.default_rng(0).uniform(0.2, 0.4, 60).round(2) + np.linspace(0, 0.3, 60)
    scores[10:16] = 0.31  # repeated
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-2)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=2)
    ours = LearningRate(TrainingConfig(learning_rate=1e-2, schedule="plateau", warmup=10), 1000)
    seen = []
    for score in scores.tolist():
        torchs.step(score)
        ours.heed(-score if mode == "max" else score)
        again = LearningRate(ours.settings, 1000)
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
    ours = LearningRate(settings, 1000, epoch=7.0)
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


# --- the same run, however it is run ------------------------------------------------------------------------------


def plateau(clips, **changes):
    """A recipe whose learning rate depends on the evaluations so far."""
    return tiny(clips, **dict(schedule="plateau", patience=0, evaluate_every=3) | changes)


@pytest.fixture(scope="module")
def undisturbed(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(plateau(clips), here(folder))
    assert Run(folder).read_training(12)["rate"]["factor"] < 1
    return folder


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
    with contextlib.closing(pretrain.pretrain(plateau(clips), run)) as steps:
        for step in steps:
            if step.step == 3:
                break
    assert [*Run(run.folder).checkpoints()] == [3]
    for step in pretrain.pretrain(plateau(clips), replace(run, resume=True)):
        if step.step == 6:
            break
    del step
    assert max(Run(run.folder).checkpoints()) == 6

    def some() -> None:
        steps = pretrain.pretrain(plateau(clips), replace(run, resume=True))
        seen.extend(next(steps).step for _ in range(2))
        steps.close()

    seen: list[int] = []
    thread = threading.Thread(target=some)
    thread.start()
    thread.join()
    assert seen == [7, 8]
    assert [step.step for step in pretrain.pretrain(plateau(clips), replace(run, resume=True))] == [9, 10, 11, 12]
    assert_same_run(undisturbed, tmp_path / "run", 12)
    assert train(plateau(clips), replace(run, resume=True)) == []  # nothing is left to do


def test_muon_moves_the_matrices_of_the_blocks_and_goes_on_where_it_was(clips, tmp_path):
    whole, halves = here(tmp_path / "whole"), here(tmp_path / "halves")
    train(tiny(clips, optimizer="muon"), whole)
    for step in pretrain.pretrain(tiny(clips, optimizer="muon"), halves):
        if step.step == 7:
            break
    train(tiny(clips, optimizer="muon"), replace(halves, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "halves", 12)
    trainer = training.Trainer(pretrain.Pretraining(tiny(clips, optimizer="muon")), whole, Accelerator(cpu=True))
    orthogonal = {id(p) for group in trainer.optimizer.param_groups if group["orthogonal"] for p in group["params"]}
    matrices = {name for name, p in trainer.model.named_parameters() if id(p) in orthogonal}
    assert matrices == {
        name for name in weights(tmp_path / "whole", 12) if re.search(r"blocks.*(qkv|out|mlp\.\d)\.weight", name)
    }
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len([*trainer.model.parameters()])


def test_a_run_is_resumed_only_as_it_was(clips, undisturbed):
    with pytest.raises(RunError, match="There is a run"):
        train(plateau(clips), here(undisturbed))
    with pytest.raises(RunError, match=r"training\.seed was 0 and is now 1\.$"):
        train(plateau(clips, seed=1), here(undisturbed, resume=True))


def test_a_run_is_resumed_only_on_its_own_corpus(tmp_path):
    paths = write_clips(tmp_path / "clips", 8)
    run = here(tmp_path / "run")
    with contextlib.closing(pretrain.pretrain(tiny(tmp_path / "clips"), run)) as steps:
        next(steps)
    paths[0].rename(tmp_path / "clips" / "renamed.flac")
    with pytest.raises(RunError, match=r"clips\.train was '7 clips \(\w{12}\)' and is now '7 clips"):
        train(tiny(tmp_path / "clips"), replace(run, resume=True))
    (tmp_path / "clips" / "renamed.flac").rename(paths[0])
    assert train(tiny(tmp_path / "clips"), replace(run, resume=True))[-1].step == 12


KILLS = int(os.environ.get("SSAST_KILLS", 4))


def test_a_run_that_is_killed_and_resumed_is_the_undisturbed_run(clips, tmp_path):
    """SIGKILL at random moments of a real process that reads ahead with a worker of its own. SSAST_KILLS: how often."""
    steps, run = 20 * KILLS, here(tmp_path / "killed", workers=1, checkpoint_every=3, resume=True)
    asked = tiny(clips, steps=steps, evaluate_every=10)
    train(asked, replace(run, folder=str(tmp_path / "whole")))

    moments = random.Random(KILLS)
    # The last is killed in its second half: the run must not end before.
    targets = [*sorted(moments.sample(range(steps // 2), KILLS - 1)), moments.randrange(steps // 2, steps - 10)]
    folder, last, pids, killed_at = Run(run.folder), 0, [], []
    for attempt, target in enumerate([*targets, None]):
        process = subprocess.Popen(command(asked, run), env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        pids.append(process.pid)
        if target is None:
            assert process.communicate()[1] == b""
            assert process.returncode == 0
            break
        environment = folder.path / "environment.json"
        while not (environment.exists() and len(json.loads(environment.read_text())) > attempt):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.02)
        while max((line["step"] for line in folder.metrics()), default=0) < target:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        killed_at.append(max((line["step"] for line in folder.metrics()), default=0))
        last = max(folder.checkpoints(), default=0)
        assert last <= killed_at[-1] + 1
    print("killed at steps", killed_at, "of", steps)
    starts = [start["from_step"] for start in json.loads((folder.path / "environment.json").read_text())]
    assert len(starts) == KILLS + 1
    assert starts[-1] > 0
    assert_same_run(tmp_path / "whole", folder.path, steps)
    assert not [*folder.path.glob("**/.*")]
    deadline = time.monotonic() + 15  # a worker notices within seconds that its process is gone
    while any(run.folder in " ".join(_command_line(process)) for process in psutil.process_iter()):
        assert time.monotonic() < deadline, "a killed run has left a process"
        time.sleep(0.2)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_saves_and_ends_cleanly(clips, tmp_path, number):
    """As a terminal does: Ctrl-C reaches the workers that read ahead as well."""
    run = here(tmp_path / "a run", workers=2, checkpoint_every=1000)
    process = subprocess.Popen(command(tiny(clips, steps=100_000), run), env=ALONE, start_new_session=True, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    while len(Run(run.folder).metrics()) < 7:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert err == ""
    assert process.returncode == 0
    done = len(Run(run.folder).metrics())
    assert [*Run(run.folder).checkpoints()][-1] == done
    assert f"Stopped after step {done}; go on with --run.resume" in out
    assert not any(run.folder in " ".join(_command_line(process)) for process in psutil.process_iter())


@pytest.mark.parametrize("at", [11, 12])  # after step 11 it is heeded in step 12, after step 12 no step is left
def test_ctrl_c_in_the_last_step_is_not_forgotten(clips, tmp_path, at):
    """The run is whole, and whoever would begin the next one learns that it was asked not to."""
    run = here(tmp_path / "run")

    def watched():
        for step in pretrain.pretrain(tiny(clips), run):
            yield step.step
            if step.step == at:
                signal.raise_signal(signal.SIGINT)

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(watched())
    assert seen == [*range(1, 13)]
    assert max(Run(run.folder).checkpoints()) == 12
    assert train(tiny(clips), replace(run, resume=True)) == []


# --- what goes wrong ----------------------------------------------------------------------------------------------


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


def test_what_is_evaluated_is_spread_over_the_held_out_clips(clips, tmp_path):
    held_out = write_clips(tmp_path / "held out", 10)
    config = tiny(clips / "000.flac", data={"held_out": (str(tmp_path / "held out"),), "held_out_clips": 4})
    _, chosen = pretrain.find_clips(config.data, seed=0)
    assert [clip.path for clip in chosen] == [str(held_out[place]) for place in (0, 3, 6, 9)]


def test_few_clips_and_broken_held_out_ones(clips, tmp_path):
    one = write_clips(tmp_path / "one", 1)[0]
    with pytest.raises(data.DataError, match="name the ones to hold out"):
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


def test_what_cannot_be_shared_is_refused(clips, tmp_path):
    with pytest.raises(ConfigError, match="Micro-batches of 3 do not divide the 4 clips"):
        train(tiny(clips), here(tmp_path / "run", micro_batch=3))
    with pytest.raises(ConfigError, match="4 clips cannot be shared evenly by 3 processes"):
        training._share(4, 3)


def test_a_loss_that_is_not_finite_stops_the_run(clips, tmp_path):
    """Weights are poisoned after a step, once between two checkpoints and once where one would be written."""
    for after, kept in ((6, 4), (8, 4), (2, None)):
        folder = Run(tmp_path / f"run {after}")
        steps = pretrain.pretrain(tiny(clips, evaluate_every=100), here(folder.path))
        original = training.Trainer.update

        def poisoned(self, step, after=after, original=original):
            rate = original(self, step)
            if step + 1 == after:
                with torch.no_grad():
                    self.model.encoder.norm.weight[0] = float("nan")
            return rate

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.Trainer, "update", poisoned)
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
        yield folder, lambda room: _fill(filler, room), filler.unlink
        subprocess.run(["umount", "-l", folder], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def limit(size: int = soft) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

        yield folder, limit, limit
        limit()


def _fill(filler, room: int) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - room)


@pytest.mark.parametrize("room", [16_384, 300_000])  # for some figures; for the model but not its optimiser
def test_a_full_disk_ends_in_one_sentence_and_the_run_goes_on_when_there_is_room(clips, undisturbed, disk, room):
    folder, fill, make_room = disk
    run = here(folder / "run")
    steps = pretrain.pretrain(plateau(clips), run)
    assert [next(steps).step for _ in range(6)][-1] == 6
    fill(room)
    with pytest.raises(
        RunError, match=r"cannot be written: .+\. The checkpoint of step 6 is intact; make room"
    ) as caught:
        list(steps)
    make_room()
    assert "\n" not in str(caught.value)
    assert max(Run(run.folder).checkpoints()) == 6
    assert train(plateau(clips), replace(run, resume=True))[0].step == 7
    assert_same_run(undisturbed, folder / "run", 12)


# --- at a glance --------------------------------------------------------------------------------------------------


def test_progress_is_a_bar_with_the_time_that_is_left(clips, tmp_path, capsys):
    train(tiny(clips), here(tmp_path / "run", in_memory=True), progress=True)
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "<00:0" in shown  # what is left
    assert "loss=" in shown
    train(tiny(clips), here(tmp_path / "quiet"))
    assert capsys.readouterr().err == ""


def test_a_tracker_that_is_not_there_is_said_before_anything_is_written(clips, tmp_path):
    with pytest.raises(ConfigError, match="nonsense is no tracker that is installed"):
        train(tiny(clips), here(tmp_path / "run", track="nonsense"))
    assert not (tmp_path / "run").exists()


def test_figures_reach_a_tracker_too(clips, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = train(tiny(clips), here(tmp_path / "run", track="tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "pretrain"))
    events.Reload()
    logged = events.Scalars("loss")
    assert [event.step for event in logged] == [step.step for step in steps]
    assert [event.value for event in logged] == pytest.approx([step.loss for step in steps])


def test_a_recipe_says_how_the_weights_start():
    """Either way the same from the same seed; the pretext heads and tokens do not depend on it."""
    mae, official = (
        pretrain.Pretraining(tiny(Path(pretrain.__file__).parent.parent / "sounds", start=start))
        for start in ("mae", "official")
    )
    weights = []
    for lesson in (mae, official, mae):
        torch.manual_seed(0)
        weights.append(lesson.build().state_dict())
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    differ = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert "encoder.positions" in differ
    assert all(name.startswith("encoder.") for name in differ)
    torch.manual_seed(0)
    plain = SSAST(official.whole.model).state_dict()
    assert all(torch.equal(plain[name], weights[1][name]) for name in plain)
    assert config.pretrain_config("official-base-patch-400").training.start == "official"
