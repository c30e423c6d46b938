"""What is typed in a real shell, with Tab after the first letters of a word, reaches the command as whole words."""

import re
import shutil
import subprocess
import sys

import pexpect
import pytest
from tiny import ALONE, PATIENCE

from ssast_lab import config
from ssast_lab.__main__ import COMMANDS
from ssast_lab.commands.completion import first_names
from ssast_lab.learning import forecast

BARE = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}  # without anybody's settings
SAY = "ssast-lab() { printf '<%s>' \"$@\" end; echo; }"  # what it is called with
SAY_IN_FISH = "function ssast-lab; printf '<%s>' $argv end; echo; end"


@pytest.fixture(scope="module", params=[*BARE])
def shell(request, tmp_path_factory):
    """A function: what the command is called with when some keys are pressed, in a folder with one of recordings and with songs.wav."""
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"There is no {name} here.")
    folder = tmp_path_factory.mktemp(name)
    (folder / "recordings").mkdir()
    for path in (folder / "songs.wav", folder / "recordings" / "dawn.wav"):
        path.touch()
    made = subprocess.run([sys.executable, "-m", "ssast_lab", "completion", name], env=ALONE, capture_output=True)
    assert made.returncode == 0, made.stderr
    script = tmp_path_factory.mktemp("script") / "completion"
    script.write_bytes(made.stdout)
    env = ALONE | {"HOME": str(folder), "LC_ALL": "C.UTF-8"}
    child = pexpect.spawn(
        name, BARE[name], env=env, cwd=folder, encoding="utf-8", timeout=PATIENCE, dimensions=(40, 300)
    )
    for line in (f"source {script}", SAY_IN_FISH if name == "fish" else SAY, "echo rea''dy"):
        child.send(line + "\r")
    child.expect("ready")

    def typed(keys):
        child.send(f"ssast-lab {keys}\r")
        child.expect(r"((?:<[^<>\r\n]*>)*)<end>")
        return re.findall("<(.*?)>", child.match[1])

    yield typed
    child.send("exit\r")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("compl\tzs\t", "completion zsh"),
        ("--v\t", "--version"),
        ("da\tst\trec\t --lim\t5", "data statistics recordings --limit 5"),
        ("data tasks --ou\trec\t", "data tasks --out recordings"),
        ("app --password-f\tso\t", "app --password-file songs.wav"),
        ("embed tiny-p\trec\t --poo\tst\t --out so\t", "embed tiny-patch recordings --pooling statistics --out songs.wav"),
        ("embed rec\td\t --la\t9", "embed recordings/dawn.wav --layers 9"),
        ("embed m songs.wav --pooling=st\t", "embed m songs.wav --pooling=statistics"),
        ("exp\tm --to tra\t--no-i\t", "export m --to transformers --no-int8"),
        ("pretr\tofficial-base-f\t--training.opt\tmu\t", "pretrain official-base-frame-400 --training.optimizer muon"),
        ("finetune esc50-p\t--data.tr\trec\t", "finetune esc50-patch --data.train recordings"),
        ("stu\thid\t--ta\trec\t", "study hiding --tasks recordings"),
    ],
)  # fmt: skip
def test_words_are_completed(keys, words, shell):
    assert " ".join(word.rstrip("/") for word in shell(keys)) == words  # which zsh leaves out


def test_every_name_that_is_offered_is_one():
    names = first_names()
    assert set(names) <= set(COMMANDS)
    assert {"quick-nano-patch-400", "official-base-frame-400", "modern-tiny-patch-400-birds-48k", "apc-nano"} <= set(
        names["pretrain"]
    )
    for name in names["pretrain"]:
        known = forecast.recipe if name.startswith(("apc", "wav2vec")) else config.pretrain_config
        assert known(name).training.batch >= 1
    for name in names["finetune"]:
        assert config.finetune_config(name).training.batch >= 1
