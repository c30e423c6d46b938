"""1, 2 and 4 processes that share a global batch make the same run: real processes, started as ``torchrun`` does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tiny import ALONE, PATIENCE, command, here, launch, tiny, write_clips
from torch.distributed import TCPStore

from ssast_lab import audio, data
from ssast_lab.config import PretrainConfig, to_dict
from ssast_lab.learning.pretrain import Pretraining, pretrain
from ssast_lab.learning.run import Run
from ssast_lab.learning.unlabelled import find_clips

STEPS = 50
ROUNDING = 3e-5  # several processes add in another order
SAMPLES = audio.OFFICIAL.window + 63 * audio.OFFICIAL.hop
COMPARED = ("loss", "nce", "mse", "held_out_loss", "held_out_nce", "held_out_mse")


def largest_difference(one: list[dict], other: list[dict]) -> float:
    assert [line["step"] for line in one] == [line["step"] for line in other] == [*range(1, STEPS + 1)]
    assert [line.keys() for line in one] == [line.keys() for line in other]
    return max(
        abs(a[name] - b[name]) / abs(a[name]) for a, b in zip(one, other, strict=True) for name in COMPARED if name in a
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[PretrainConfig, Path]:
    """One process; three of its 28 files are no sound."""
    folder = tmp_path_factory.mktemp("processes")
    write_clips(folder / "clips", 25)
    for name in ("a.wav", "b.wav", "c.wav"):
        (folder / "clips" / name).write_bytes(b"RIFF")
    config = tiny(folder / "clips", steps=STEPS, batch=8, learning_rate=1e-3, evaluate_every=20)
    for _ in pretrain(config, here(folder / "alone")):
        pass
    return config, folder / "alone"


def test_two_processes_make_the_run_of_one(alone, tmp_path):
    config, folder = alone
    process = launch(2, config, here(tmp_path / "two runs", workers=1))
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "Warning" not in err
    assert out.count("step 50: ") == 1
    one, two = Run(folder), Run(tmp_path / "two runs")
    difference = largest_difference(one.metrics(), two.metrics())
    print(f"largest relative difference of 2 processes: {difference:.2g}")
    assert difference < ROUNDING
    assert two.unreadable() == one.unreadable()
    assert {os.path.basename(name) for name in two.unreadable()} == {"a.wav", "b.wav", "c.wav"}
    assert json.loads((two.path / "environment.json").read_text())[0]["processes"] == 2


def test_four_processes_stop_together_and_go_on_as_one(alone, tmp_path):
    config, folder = alone
    run = Run(tmp_path / "run")
    process = launch(4, config, here(run.path, checkpoint_every=1000))
    while len(run.metrics()) < 15:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to all four, which are not at the same place
    out, err = process.communicate(timeout=PATIENCE)
    stopped = len(run.metrics())
    assert max(run.checkpoints()) == stopped < STEPS, err
    assert out.count(f"Stopped after step {stopped};") == 1
    assert "[rank" not in err  # the traces of our processes
    clips, held_out = find_clips(config.data, config.training.seed)
    plan = Pretraining(config).plan(data.Files(clips, SAMPLES), slice(None))
    met = {name for step in range(stopped) for name in plan[step].unreadable}  # by whichever process
    assert run.unreadable().keys() - {clip.name for clip in held_out} == met
    assert (run.path / "unreadable.tsv").read_text().count("\n") == len(run.unreadable())
    assert sum(1 for _ in pretrain(config, here(run.path, resume=True))) == STEPS - stopped
    difference = largest_difference(Run(folder).metrics(), run.metrics())
    print(f"largest relative difference of 4 processes up to step {stopped}, then 1: {difference:.2g}")
    assert difference < ROUNDING


def test_processes_that_do_not_divide_the_batch_are_refused(alone, tmp_path):
    config, _ = alone
    process = launch(3, config, here(tmp_path / "run"))
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "ssast-lab pretrain: A global batch of 8 clips cannot be shared evenly by 3 processes.\n" in err
    assert not (tmp_path / "run").exists()


CELL = """
import json
from accelerate import notebook_launcher
from ssast_lab.config import PretrainConfig, RunConfig, from_dict
from ssast_lab.learning.pretrain import pretrain

config = from_dict(PretrainConfig, json.loads({config!r}))
run = RunConfig(**json.loads({run!r}))

def train():
    for step in pretrain(config, run):
        pass

notebook_launcher(train, num_processes=2)
"""


def test_two_processes_out_of_a_notebook_cell_make_the_run_of_one(alone, tmp_path, monkeypatch):
    """As notebooks/pretrain.ipynb shows it, in a real kernel."""
    config, folder = alone
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = here(tmp_path / "run")
    code = CELL.format(config=json.dumps(to_dict(config)), run=json.dumps(to_dict(run)))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3").execute()
    assert json.loads((Path(run.folder) / "environment.json").read_text())[0]["processes"] == 2
    difference = largest_difference(Run(folder).metrics(), Run(run.folder).metrics())
    print(f"largest relative difference of 2 processes out of a cell: {difference:.2g}")
    assert difference < ROUNDING


SITE = """
import atexit, ctypes
atexit.register(ctypes.PyDLL({library!r}).linger)  # the first to be registered is the last to be called
"""
SCRIPT = """
import json, sys
from ssast_lab.config import PretrainConfig, RunConfig, from_dict
from ssast_lab.learning.pretrain import pretrain

config, status, *runs = map(json.loads, sys.argv[1:])
for run in runs:
    training = pretrain(from_dict(PretrainConfig, config), RunConfig(**run))
    for step in training:
        if status:
            break
sys.exit(status)
"""


@pytest.fixture(scope="module")
def late(tmp_path_factory) -> dict[str, str]:
    """The environment in which gloo's threads are late at the end of a process: see late.cpp."""
    compiler = shutil.which("c++")
    if sys.platform != "linux" or not compiler:
        pytest.skip("it takes Linux and a C++ compiler to hold the threads of another library")
    folder = tmp_path_factory.mktemp("late")
    library, source = str(folder / "late.so"), str(Path(__file__).with_name("late.cpp"))
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    (folder / "sitecustomize.py").write_text(SITE.format(library=library))
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return ALONE | {"LD_PRELOAD": library, "PYTHONPATH": path, "PYTHONWARNINGS": "default"}


def two(command: list[str], environment: dict[str, str]) -> list[tuple[int, str, str]]:
    """(exit status, output, errors) of two processes, which meet as torchrun's do."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = environment | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    both = [
        subprocess.Popen(command, env=environment | {"RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True) for rank in "01"
    ]  # fmt: skip
    said = [process.communicate(timeout=PATIENCE) for process in both]
    return [(process.returncode, out, err) for process, (out, err) in zip(both, said, strict=True)]


def ended(ends: list[tuple[int, str, str]], status: int) -> None:
    for code, _, err in ends:
        assert "A thread of gloo is late." in err  # else nothing was put to the test
        assert "terminate called" not in err
        assert (code, "Traceback" in err) == (status, False), err


def test_two_processes_of_the_command_line_end_well_with_gloo_late(late, tmp_path):
    write_clips(tmp_path / "clips", 8)
    config = tiny(tmp_path / "clips", steps=3, evaluate_every=3)
    ends = two(command(config, here(tmp_path / "run")), late)
    ended(ends, 0)
    assert [out.count("step 3: ") for _, out, _ in ends] == [1, 0]


@pytest.mark.parametrize(("trainings", "status"), [("whole", 0), ("unfinished", 3)])
def test_two_processes_of_a_script_end_as_it_says_with_gloo_late(late, tmp_path, trainings, status):
    """Two trainings one after the other; unfinished ones are still held at the end."""
    write_clips(tmp_path / "clips", 8)
    config = to_dict(tiny(tmp_path / "clips", steps=3, evaluate_every=3))
    runs = [to_dict(here(tmp_path / name)) for name in ("one", "two")]
    (tmp_path / "script.py").write_text(SCRIPT)
    given = [json.dumps(each) for each in (config, status, *runs)]
    ended(two([sys.executable, str(tmp_path / "script.py"), *given], late), status)
    assert [len(Run(run["folder"]).metrics()) for run in runs] == [1 if status else 3] * 2
