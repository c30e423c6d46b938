"""What ``import ssast_lab`` offers, and the places at which things used to be."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ssast_lab
from ssast_lab import _moved, audio

README = Path(__file__).parent.parent / "README.md"


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_name_is_there_and_comes_when_it_is_asked_for():
    script = (
        "import sys, ssast_lab; before = 'torch' in sys.modules; ssast_lab.load; print(before, 'torch' in sys.modules)"
    )
    assert python(script) == "False True\n"
    for name in ssast_lab.__all__:
        assert name in dir(ssast_lab)
        assert callable(getattr(ssast_lab, name)) or name == "figures"
    with pytest.raises(AttributeError, match="module 'ssast_lab' has no attribute 'nonsense'"):
        _ = ssast_lab.nonsense


@pytest.mark.parametrize("sound", audio.builtin_sounds())
def test_the_example_of_the_readme_runs_on_every_sound(sound, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    path = audio.builtin_sounds()[sound]["path"]
    assert '"ssast_lab/sounds/blackbird.flac"' in example
    example = example.replace('"ssast_lab/sounds/blackbird.flac"', repr(str(path)))
    lines = example.replace(".show()", "").splitlines()
    exec("\n".join(lines), {})
    said = re.fullmatch(r"MSE (\d\.\d+), ([\d.]+)% of (\d+) hidden patches recognised\n", capsys.readouterr().out)
    assert 0 < float(said[1]) < 1
    assert int(said[3]) > 30


def test_old_places_warn_and_work():
    """In a process of its own, as importing them changes what the package holds."""
    script = (
        "import importlib, warnings\n"
        "from ssast_lab._moved import PLACES\n"
        "for old, new in PLACES.items():\n"
        "    with warnings.catch_warnings(record=True) as said:\n"
        "        warnings.simplefilter('always')\n"
        "        there = importlib.import_module(old)\n"
        "    here = importlib.import_module(new)\n"
        "    public = [name for name in vars(here) if not name.startswith('_')]\n"
        "    assert public and all(getattr(there, name) is getattr(here, name) for name in public), old\n"
        "    assert f'{old} has moved to {new}.' in [str(each.message) for each in said], (old, said)\n"
        "print(len(PLACES))\n"
    )
    assert python(script) == f"{len(_moved.PLACES)}\n"


def test_the_old_pretrain_can_be_imported_and_the_new_one_called():
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from ssast_lab.pretrain import pretrain\n"
        "import ssast_lab\n"
        "from ssast_lab.learning import pretrain as new\n"
        "assert pretrain is new.pretrain\n"
        "try:\n"
        "    next(ssast_lab.pretrain(new.PretrainConfig()))\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    assert python(script) == "There is nothing to train on: name a folder, a manifest or shards of sound.\n"


def test_what_was_never_there_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        import ssast_lab.nowhere  # noqa: F401


def test_idle_threads_leave_the_cores_to_others_unless_told_otherwise(monkeypatch):
    said = "import os, ssast_lab; print(os.environ['GOMP_SPINCOUNT'])"
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert python(said) == "3000\n"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert python(said) == "7\n"
