"""The command line: every command explains itself, and errors are one sentence with exit status 1."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from golden_model import figures, official_state
from tiny import ALONE, command, here, lines, tiny, write_clips

import ssast_lab
from ssast_lab import data
from ssast_lab.__main__ import COMMANDS, HELP, main
from ssast_lab.config import MaskConfig
from ssast_lab.learning.run import Run


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("some clips")
    write_clips(folder, 8, (0.7, 1.5))
    return folder


def run(*arguments, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ssast_lab", *arguments], env=ALONE, capture_output=True, text=True, **more
    )


def arguments(config, run) -> list[str]:
    return command(config, run)[3:]


def test_help_is_there_at_once(capsys):
    for asked in (["--help"], ["help"], []):
        main(asked)
        assert capsys.readouterr().out.strip() == HELP
    assert all(f"ssast-lab {name} " in HELP for name in COMMANDS)
    code = "import sys; from ssast_lab.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "app"])
def test_each_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"ssast-lab {name}" in capsys.readouterr().out


def test_a_run_from_its_start_to_its_end_and_on(clips, tmp_path, capsys):
    config, where = tiny(clips), tmp_path / "a run"
    ended = subprocess.run(command(config, here(where)), env=ALONE, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    begun = ended.stderr.splitlines()
    assert begun[0] == f"Reading the sounds; the run is in {where}."
    assert begun[1].startswith("7 clips to learn from, 1 held out: 12 steps of 4 clips")
    assert begun[2].startswith("For comparison: tiny-patch drew what was hidden with an MSE of")
    said = ended.stdout.splitlines()
    assert [line.split(":")[0] for line in said[:3]] == ["step 5", "step 10", "step 12"]
    assert said[3].startswith(f"Written: {where} (its best model is that of step ")
    assert said[4:] == [
        f"Next: ssast-lab info '{where}' --evaluate OTHER_SOUNDS",
        f"      ssast-lab app --models '{where}'",
    ]
    assert "on 1 held-out clip InfoNCE" in said[0]
    assert "(chance 8.33%)" in said[0]  # of 12 hidden patches

    main(arguments(config, here(where, resume=True)))
    assert capsys.readouterr().out.startswith(f"The run in {where} has done its 12 steps already.\nWritten: ")
    with pytest.raises(
        SystemExit, match=r"^ssast-lab pretrain: There is a run in .* already: resume it \(--run.resume\)"
    ):
        main(arguments(config, here(where)))
    with pytest.raises(SystemExit, match=r"training\.learning_rate was 0\.002 and is now 0\.1\.$"):
        main(arguments(tiny(clips, learning_rate=0.1), here(where, resume=True)))

    for path in (where, Run(where).checkpoints()[12], Run(where).checkpoints()[12] / "model"):
        main(["info", str(path)])
        shown = capsys.readouterr().out
        assert f"{path}: SSAST, " in shown
        assert "2 layers, 32 wide, 2 heads" in shown
        assert "16 mel bins x 16 frames, stride 16 x 16: 8 x 4 = 32 in 64 frames" in shown
        assert "steps     12" in shown or path == where
    main(["info", str(where), "--curves", str(tmp_path / "curves.csv")])
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines[0] == "set,clips,nce,mse,accuracy"
    assert [line.split(",")[1] for line in lines if line.startswith("held out")] == ["20", "40", "48"]
    assert any(line.startswith("training,") for line in lines)


def test_info_on_an_official_file(tmp_path, capsys):
    figure = figures("frame")
    torch.save({"module." + name: value for name, value in official_state(figure).items()}, tmp_path / "official.pth")
    main(["info", str(tmp_path / "official.pth")])
    shown = capsys.readouterr().out
    assert "SSAST, " in shown
    assert "128 mel bins x 2 frames" in shown


def test_statistics_of_a_corpus(clips, capsys):
    main(["data", "statistics", str(clips)])
    mean, deviation, count = data.statistics(data.find_clips([clips]))
    said, _ = capsys.readouterr().out.splitlines()
    assert said == f"mean {mean:.7f}, standard deviation {deviation:.7f} over {count} clips"


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (["nonsense"], "no command 'nonsense'; there are"),
        (["pretrain", "modern-huge-patch-400"], "There is no model preset"),
        (["pretrain", "modern-nano-patch-400", "--data.train", "/nowhere"], "There is no sound at /nowhere"),
        (["pretrain", "modern-nano-patch-600"], "600 of 512 patches cannot be hidden"),
        (["pretrain"], "nothing to train on"),
        (["pretrain", "no/where"], "pretrain: There is no sound at no/where: no such file, folder or pattern"),
        (["finetune", "nowhere/"], "finetune: There is no sound at nowhere/: no such"),
        (["info", "/nowhere"], "There is no model '/nowhere'"),
        (["info", "tiny-patch", "--pictures", "held-out.png"], "say on which sounds by --evaluate DIR"),
        (["info", os.devnull], "is empty|no checkpoint|not loaded"),
        (["data", "statistics", "/nowhere"], "There is no sound"),
        (["probe", "logmel", "/nowhere", "--layer", "0"], "There is no labelled set at /nowhere"),
        (["data", "corpus", "--out", os.devnull], f"data: {os.devnull}.*: Not a directory"),
    ],
)
def test_errors_are_one_sentence(asked, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=word) as ended:
        main(asked)
    assert "\n" not in str(ended.value)
    assert [*tmp_path.iterdir()] == []


def test_a_share_of_the_patches_is_asked_for_as_a_flag(clips, tmp_path, capsys):
    """It stands for the recipe's count, and 0.375 of 32 patches are the 12 of the other run."""
    config = tiny(clips, steps=2)
    shared = replace(config, mask=MaskConfig(share=0.375, cluster=(2, 3)))
    for one, name in ((config, "count"), (shared, "share")):
        main(arguments(one, here(tmp_path / name)))
    assert lines(tmp_path / "share") == lines(tmp_path / "count")
    assert json.loads((tmp_path / "share" / "config.json").read_text())["mask"]["share"] == 0.375


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--training.batch", "0"], "batch must be at least 1, not 0."),
        (["--model.heads", "3"], "The width 128 cannot be shared evenly among 3 attention"),
        (["--training.optimizer", "sgd"], "invalid choice 'sgd' for argument '--training.optimizer'"),
        (["--training.seed", "-1"], "A seed is a whole number from 0, not -1."),
        (["--mask.share", "1.5"], "The share of patches to hide is above 0 and at most 1"),
        (["--mask.share=0.5", "--mask.count", "9"], "Either a number of patches is hidden"),
        (["--nonsense"], "Unrecognized"),
    ],
)
def test_a_flag_that_cannot_be_is_refused_as_such(asked, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", *asked])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "asked", [["probe", "logmel", "task"], ["compare", "logmel", "--tasks", "task", "--out", "out"]]
)
def test_a_layer_is_a_number_or_best(asked, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--layer", "last"])
    assert ended.value.code == 2
    assert "{best}" in capsys.readouterr().err


def test_an_error_ends_a_process_with_1_and_no_trace(tmp_path):
    ended = run("pretrain", "--data.train", str(tmp_path / "nowhere"), cwd=os.getcwd())
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("ssast-lab pretrain: There is no sound at")
    assert ended.stderr.count("\n") == 1


def test_a_ctrl_c_before_the_first_step_is_no_trace(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "info", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["info"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "ssast-lab info: interrupted.\n"


def test_who_reads_only_the_beginning_meets_no_trace():
    piped = f"{sys.executable} -m ssast_lab finetune --help | head -c 10"
    ended = subprocess.run(piped, shell=True, env=ALONE, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("usage: ssa", "")


def test_a_look_at_recordings_names_the_next_step_and_so_do_statistics(clips, capsys):
    main(["data", "look", str(clips)])
    said = capsys.readouterr().out
    assert said.startswith(f"{clips}: 8 sounds")
    assert said.endswith(f"Next: ssast-lab data statistics '{clips}'\n")
    main(["data", "statistics", str(clips)])
    flags = capsys.readouterr().out.splitlines()[-1].partition("Next: ssast-lab ")[2]
    mean, deviation, _ = data.statistics(data.find_clips([clips]))
    assert f"--model.audio.mean={mean:.4f} --model.audio.std={deviation:.4f}" in flags


def test_the_version_is_told(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"ssast-lab {ssast_lab.__version__}\n"


HELPS = [[name] for name in COMMANDS] + [["data", name] for name in ("look", "statistics", "corpus", "tasks")] + [
    ["pretrain", "apc-nano"], ["pretrain", "official-base-frame-250"], ["finetune", "esc50-patch"],
]  # fmt: skip


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_no_help_contains_markup_or_words_of_the_parser(words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: ssast-lab {words[0]}" in shown
    for markup in ("``", ":mod:", ":class:", ":func:", "[[STR", "STR to "):
        assert markup not in shown


def test_pretrain_lists_its_recipes_and_says_what_they_are(capsys):
    for name in ("pretrain", "finetune"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
    shown = capsys.readouterr().out
    for words in (
        "  quick ",
        "  modern ",
        "  official ",
        "modern-base-patch-400",
        "apc-nano",
        "small-patch",
        "esc50, speechcommands",
    ):
        assert words in shown


def test_a_folder_in_the_recipes_place_is_what_is_learned_from(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = [
        "--training.steps",
        "2",
        "--model.frames",
        "64",
        "--mask.count",
        "12",
        "--training.sampled",
        "4",
        "--run.workers",
        "0",
    ]
    main(["pretrain", str(clips), *small])
    said = capsys.readouterr()
    assert (
        f"This is taken for: ssast-lab pretrain quick-nano-patch-400 --data.train '{clips}' --training.steps 2"
        in said.err
    )
    assert json.loads((tmp_path / "runs/quick-nano-patch-400/config.json").read_text())["data"]["train"] == [str(clips)]
    with pytest.raises(SystemExit, match=r"write ssast-lab pretrain quick-nano-patch-400 --data.train FOLDER"):
        main(["pretrain", "quick-nano-patch-400", "nowhere"])
    with pytest.raises(SystemExit, match=r"as in ssast-lab pretrain modern-nano-patch-400 --data.train FOLDER"):
        main(["pretrain", "modern-nano-patch-400"])


def test_probe_without_tasks_lists_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks" / "birds").mkdir(parents=True)
    (tmp_path / "tasks" / "birds" / "task.csv").touch()
    with pytest.raises(
        SystemExit, match=r"\(tones, letters, phones, drums, effects, instruments\)\. Here are tasks/birds\."
    ):
        main(["probe", "tiny-patch"])


def test_data_tasks_names_them(capsys):
    with pytest.raises(SystemExit):
        main(["data", "tasks", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("tones", "letters", "phones", "drums"))
