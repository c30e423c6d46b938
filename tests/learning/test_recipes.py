"""The public data sets in the folders in which they are handed out, in miniature, through the command line from end to end."""

import json
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
import soundfile
import torch
from tiny import ALONE, PATIENCE, RATE, command, here

from ssast_lab import checkpoint
from ssast_lab.__main__ import main
from ssast_lab.config import FineTuneConfig, LabelledConfig, ModelConfig, TuningConfig
from ssast_lab.learning.run import Run
from ssast_lab.model import SSAST


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder, saved = tmp_path_factory.mktemp("models"), {}
    for kind, shape in (("patch", (16, 16)), ("frame", (128, 2))):
        torch.manual_seed(0)
        model = SSAST(ModelConfig(width=16, depth=1, heads=2, frames=256, patch=shape, stride=shape))
        saved[kind] = str(checkpoint.save(model, folder / kind))
    return saved


def write(path, pitch: float, seconds: float = 1.0) -> None:
    t = np.arange(round(seconds * RATE)) / RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(zlib.crc32("/".join(path.parts[-2:]).encode()))
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * t) + 0.01 * random.standard_normal(len(t)), RATE)


def finetune(recipe: str, model: str, data, folder, *more: str, capsys) -> str:
    main([
        "finetune", recipe, "--model", model, "--data.train", str(data), "--training.batch", "4", "--training.epochs", "1",
        "--training.average-from", "1", "--run.folder", str(folder), "--run.workers", "0", "--run.precision", "fp32", *more,
    ])  # fmt: skip
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["patch", "frame"])
def test_esc50_in_five_folds(models, tmp_path, capsys, kind):
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(20):
        fold, target = number % 5 + 1, number // 5 % 2
        name = f"{fold}-{1000 + number}-A-{target}.wav"
        write(tmp_path / "ESC" / "audio" / name, (300, 2000)[target], 5)
        rows.append(f"{name},{fold},{target},{('dog', 'rooster')[target]},False,{1000 + number},A")
    meta = tmp_path / "ESC" / "meta" / "esc50.csv"
    meta.parent.mkdir()
    meta.write_text("\n".join(rows) + "\n")
    said = finetune(f"esc50-{kind}", models[kind], tmp_path / "ESC", tmp_path / "run", capsys=capsys)
    assert [f"Test set of fold {fold}, last weights" in said for fold in range(1, 6)] == [True] * 5
    assert "All 5 folds together: 20 clips, 2 labels" in said
    loaded = checkpoint.load(tmp_path / "run" / "fold-3")
    assert loaded.config.labels == ("dog", "rooster")
    assert (loaded.config.frames, loaded.config.stride) == (512, (10, 10) if kind == "patch" else (128, 1))
    assert loaded.config.audio.mean == -6.6268077


def test_folds_that_are_done_count_when_the_others_go_on(models, tmp_path, capsys):
    """Two of three folds were trained, and one of them ended before it was judged."""
    rows = ["path,label,fold"]
    for number in range(24):
        write(tmp_path / f"{number}.wav", (300, 2000)[number % 2] + 9 * number, 0.3)
        rows.append(f"{number}.wav,{'ab'[number % 2]},{number // 2 % 3 + 1}")
    (tmp_path / "task.csv").write_text("\n".join(rows))
    asked = ["small-patch", models["patch"], tmp_path, tmp_path / "run"]

    def told(said):  # of the test sets
        return [line for line in said.splitlines() if line and not line.startswith(("step ", "The run in "))]

    whole = finetune(*asked, capsys=capsys)
    reports = {path: path.read_text() for path in sorted(tmp_path.glob("run/fold-*/report.json"))}
    shutil.rmtree(tmp_path / "run" / "fold-2")
    (tmp_path / "run" / "fold-3" / "report.json").unlink()
    again = finetune(*asked, "--run.resume", capsys=capsys)
    assert again.count("has done its steps already") == 2
    assert told(again) == told(whole)
    assert "All 3 folds together: 24 clips" in whole
    assert {path: path.read_text() for path in reports} == reports


def test_speech_commands(models, tmp_path, capsys):
    folder = tmp_path / "speech_commands_v0.02"
    for word, pitch in (("yes", 300), ("no", 2500)):
        for speaker in range(8):
            write(folder / word / f"{speaker:08x}_nohash_0.wav", pitch)
    (folder / "validation_list.txt").write_text("yes/00000006_nohash_0.wav\nno/00000006_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("yes/00000007_nohash_0.wav\nno/00000007_nohash_0.wav\n")
    write(folder / "_background_noise_" / "pink_noise.wav", 50, 3)
    said = finetune("speechcommands-frame", models["frame"], folder, tmp_path / "run", capsys=capsys)
    assert "Test set, best weights" in said
    assert "Test set, averaged weights" in said
    told = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [(entry["weights"], entry["clips"]) for entry in told] == [("best", 2), ("averaged", 2)]
    assert checkpoint.load(tmp_path / "run" / "averaged").config.labels == ("no", "yes")


@pytest.mark.parametrize("recipe", ["as20k-patch", "as2m-patch"])
def test_audioset_with_its_json_and_label_file(models, tmp_path, capsys, recipe):
    names = {"/m/09x0r": "Speech", "/m/05zppz": "Male speech, man speaking", "/m/04rlf": "Music"}
    (tmp_path / "labels.csv").write_text(
        "index,mid,display_name\n" + "".join(f'{i},{mid},"{name}"\n' for i, (mid, name) in enumerate(names.items()))
    )
    for part, count in (("train", 8), ("eval", 4)):
        entries = []
        for number in range(count):
            path = tmp_path / part / f"{number}.wav"
            write(path, 200 + 10 * number + 500 * (number % 2), 2)
            labels = "/m/04rlf" if number % 2 else "/m/09x0r,/m/05zppz"
            entries.append({"wav": str(path), "labels": labels})
        (tmp_path / f"{part}.json").write_text(json.dumps({"data": entries}))
    more = ["--data.test", str(tmp_path / "eval.json"), "--data.labels", str(tmp_path / "labels.csv")]
    said = finetune(recipe, models["patch"], tmp_path / "train.json", tmp_path / "run", *more, capsys=capsys)
    assert "mean average precision" in said
    assert "Test set, averaged weights" in said
    assert checkpoint.load(tmp_path / "run").config.labels == tuple(names.values())


def test_what_is_wrong_with_a_set_is_one_sentence(models, tmp_path):
    for number in range(8):
        write(tmp_path / "set" / ("a", "b")[number % 2] / f"{number}.wav", 300)
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,/m/a,Apple\n1,/m/b,Bell\n")
    (tmp_path / "train.json").write_text(json.dumps({"data": [{"wav": "set/a/0.wav", "labels": "/m/c"}]}))
    leak = "path,label,source,fold\n" + "".join(
        f"set/{('a', 'b')[n % 2]}/{n}.wav,{('a', 'b')[n % 2]},voice {n % 4},{'test' if n > 3 else 'train'}\n"
        for n in range(8)
    )
    (tmp_path / "leak.csv").write_text(leak)
    leak = "path,label,source,fold\n" + "".join(
        f"set/{('a', 'b')[n % 2]}/{n}.wav,{('a', 'b')[n % 2]},{'x' if n in (3, 5) else n},{n // 4 * 2 + n // 2 % 2}\n"
        for n in range(8)
    )
    (tmp_path / "late.csv").write_text(leak)  # between the second fold and the third
    (tmp_path / "single.csv").write_text("path,label\nset/a/0.wav,a\nset/a/2.wav,a\nset/a/4.wav,a\nset/b/1.wav,b\n")
    for data, more, word in (
        (tmp_path / "train.json", [f"--data.labels={tmp_path / 'labels.csv'}"], "The label '/m/c' of the clip"),
        (tmp_path / "leak.csv", [], "voice "),
        (tmp_path / "late.csv", ["--training.batch=4", "--training.epochs=1"], "the source 'x'"),
        (tmp_path / "single.csv", [], "single"),
        (tmp_path / "set", ["--data.dataset=esc-50"], "esc50.csv"),
        (tmp_path / "set", ["--stride", "10", "10"], "leaves gaps between the 128x2 patches"),
    ):
        asked = [sys.executable, "-m", "ssast_lab", "finetune", "small-frame", f"--data.train={data}",
                 f"--model={models['frame']}", f"--run.folder={tmp_path / 'run'}", *more]  # fmt: skip
        ended = subprocess.run(asked, env=ALONE, capture_output=True, text=True)
        assert ended.returncode == 1, ended.stdout
        assert ended.stderr.startswith("ssast-lab finetune: ")
        assert word in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_two_processes_make_the_run_of_one(models, tmp_path):
    for number in range(20):
        write(tmp_path / "set" / ("a", "b")[number % 2] / f"{number}.wav", (300, 1500)[number % 2] + 9 * number)
    training = TuningConfig(batch=4, epochs=4, warmup=2, mixup=0.5, time_mask=20, frequency_mask=20, noise=True,
                            average_from=3)  # fmt: skip
    config = FineTuneConfig(models["patch"], data=LabelledConfig(str(tmp_path / "set")), training=training)
    lines = []
    for processes in (1, 2):
        python, *rest = command(config, here(tmp_path / str(processes)))
        run = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *rest]
        done = subprocess.run(
            run, env=ALONE | {"PYTHONWARNINGS": "default"}, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Test set, best weights") == 1
        lines.append(Run(tmp_path / str(processes)).metrics())
    for one, two in zip(*lines, strict=True):
        for name in ("loss", "gradient_norm", "held_out_loss"):
            assert (name in one) == (name in two)
            assert name not in one or one[name] == pytest.approx(two[name], rel=1e-4)
