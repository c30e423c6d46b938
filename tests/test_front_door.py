"""What ``import ssast_lab`` offers, and the places at which things used to be."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ssast_lab
from ssast_lab import _moved, analysis, audio

NOT_HERE = ("transformers", "onnxruntime", ".pth")  # an example with these needs files that no checkout has
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
    assert example.count(".flac") == 4
    example = example.replace('"ssast_lab/sounds/blackbird.flac"', repr(str(path)))
    lines = example.replace(".show()", "").splitlines()
    exec("\n".join(lines), {})
    said = re.fullmatch(r"MSE (\d\.\d+), ([\d.]+)% of (\d+) hidden patches recognised\n", capsys.readouterr().out)
    assert 0 < float(said[1]) < 1
    assert int(said[3]) > 30


def test_the_short_way_is_the_long_way():
    """By names, by a waveform, by features and by an array of two channels at another rate."""
    path = audio.builtin_sounds()["blackbird"]["path"]
    model, wave = ssast_lab.load("tiny-patch"), ssast_lab.load_waveform(path)
    excerpt = ssast_lab.excerpt(wave, model.config)
    mask = ssast_lab.draw_mask(excerpt, seed=3)
    long = analysis.reconstruct(model, excerpt.fbank, mask)
    for short in (
        ssast_lab.reconstruct("tiny-patch", path, seed=3),
        ssast_lab.reconstruct(model, wave, seed=3),
        ssast_lab.reconstruct(model, wave.numpy(), mask),
        ssast_lab.reconstruct(model, excerpt.fbank, mask),
    ):
        assert np.array_equal(short.mask, long.mask)
        assert np.allclose(short.reconstruction, long.reconstruction, atol=1e-5)
    assert torch.equal(ssast_lab.invert(long), audio.invert(torch.from_numpy(long.reconstruction), model.config.audio))
    assert np.allclose(
        ssast_lab.attend("tiny-patch", path).rollout(), analysis.attend(model, excerpt.fbank).rollout(), atol=1e-5
    )
    matched, asked = ssast_lab.match(model, path, seed=3), analysis.match(model, excerpt.fbank, mask)
    assert np.allclose(matched.scores, asked.scores, atol=1e-3)
    later = ssast_lab.reconstruct(model, path, start=1.0)
    assert later.start == 1
    assert torch.equal(torch.from_numpy(later.original), ssast_lab.excerpt(wave, model.config, 1.0).fbank)
    with pytest.raises(audio.AudioError, match=r"neither a waveform \(S,\) nor log-mel"):
        ssast_lab.reconstruct(model, np.zeros((48000, 2)))


def test_arrays_are_heard_at_their_rate_and_of_any_order():
    t = np.arange(3 * 48000) / 48000
    sound = np.stack([np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 660 * t)]).astype(np.float32) / 4
    wave = ssast_lab.load_waveform(sound, rate=48000)
    assert wave.shape == (3 * 16000,)
    assert torch.equal(wave, ssast_lab.load_waveform(sound.T, rate=48000))
    assert torch.equal(wave, ssast_lab.load_waveform(torch.from_numpy(sound.mean(0)), rate=48000))
    assert torch.allclose(ssast_lab.load_waveform(sound, 1.0, 0.5, rate=48000), wave[16000:24000], atol=1e-6)
    assert torch.equal(ssast_lab.log_mel(sound, rate=48000), ssast_lab.log_mel(wave))
    assert torch.equal(ssast_lab.log_mel(sound.T, rate=48000), ssast_lab.log_mel(wave))
    for wrong, said in (
        (lambda: ssast_lab.load_waveform(sound), "does not say how fast it was sampled"),
        (lambda: ssast_lab.log_mel(sound.T), "channels in columns: give its rate"),
        (lambda: ssast_lab.load_waveform("bird.wav", rate=16000), "a sound file tells its own"),
    ):
        with pytest.raises(audio.AudioError, match=said):
            wrong()


PAGES = sorted(
    page
    for page in (README.parent / "docs").rglob("*.md")
    if "```python" in page.read_text(encoding="utf-8") and page.name != "embeddings.md"
)  # whose examples tests/measuring/test_benches.py runs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_the_pages_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        if any(needed in example for needed in NOT_HERE):
            compile(example, str(page), "exec")
            continue
        shutil.copy(audio.builtin_sounds()["blackbird"]["path"], tmp_path / "bird.flac")
        exec(example.replace(".show()", ""), {})


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
