"""Kills and signals: a run that is killed at any moment goes on exactly; one that is asked to stop saves first."""

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import replace

import psutil
import pytest
from tiny import ALONE, PATIENCE, assert_same_run, command, here, tiny, train

from ssast_lab.config import RunConfig
from ssast_lab.learning.pretrain import pretrain
from ssast_lab.learning.run import Run, RunError

KILLS = int(os.environ.get("SSAST_KILLS", 4))


def test_a_run_that_is_killed_and_resumed_is_the_undisturbed_run(clips, tmp_path):
    """SIGKILL at random moments of a real process that reads ahead with a worker of its own. SSAST_KILLS: how often."""
    steps, run = 20 * KILLS, here(tmp_path / "killed", workers=1, checkpoint_every=3, resume=True)
    config = tiny(clips, steps=steps, evaluate_every=10)
    train(config, replace(run, folder=str(tmp_path / "whole")))

    moments = random.Random(KILLS)
    # The last is killed in its third quarter: the run must not end before.
    targets = [*sorted(moments.sample(range(steps // 2), KILLS - 1)), moments.randrange(steps // 2, 3 * steps // 4)]
    folder, last, pids, killed_at = Run(run.folder), 0, [], []
    for attempt, target in enumerate([*targets, None]):
        process = subprocess.Popen(command(config, run), env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        pids.append(process.pid)
        if target is None:
            assert b"Traceback" not in process.communicate()[1]
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
    # A worker that reads ahead looks every few seconds whether its process is still there.
    _, alive = psutil.wait_procs(_processes_of(run), timeout=PATIENCE)
    assert not alive, "a killed run has left a process"


def _processes_of(run: RunConfig) -> list[psutil.Process]:
    """Those that have its folder in their command line."""
    return [process for process in psutil.process_iter() if run.folder in " ".join(_command_line(process))]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_saves_and_ends_cleanly(clips, tmp_path, number):
    """As a terminal does: Ctrl-C reaches the workers that read ahead as well."""
    run = here(tmp_path / "a run", workers=2, checkpoint_every=1000)
    process = subprocess.Popen(command(tiny(clips, steps=100_000), run), env=ALONE, start_new_session=True, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    while len(Run(run.folder).metrics()) < 7:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    with pytest.raises(RunError, match=rf"is going on \(process {process.pid}\)"):  # and the lock ends with it
        train(tiny(clips, steps=100_000), replace(run, resume=True))
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in err
    assert process.returncode == 0
    done = len(Run(run.folder).metrics())
    assert [*Run(run.folder).checkpoints()][-1] == done
    assert f"Stopped after step {done}; go on with --run.resume" in out
    assert _processes_of(run) == []


@pytest.mark.parametrize("at", [11, 12])  # after step 11 it is heeded in step 12, after step 12 no step is left
def test_ctrl_c_in_the_last_step_is_not_forgotten(clips, tmp_path, at):
    """The run is whole, and whoever would begin the next one learns that it was asked not to."""
    run = here(tmp_path / "run")

    def watched():
        for step in pretrain(tiny(clips), run):
            yield step.step
            if step.step == at:
                signal.raise_signal(signal.SIGINT)

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(watched())
    assert seen == [*range(1, 13)]
    assert max(Run(run.folder).checkpoints()) == 12
    assert train(tiny(clips), replace(run, resume=True)) == []
