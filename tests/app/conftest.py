"""What the app's tests share: a real server process, a real browser, and sounds and models that are known."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import soundfile
import soxr
import torch
from golden_model import figures, official_state
from test_huggingface import own, theirs, write
from visitor import ROOT, SHARE, visit

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.config import model_config
from ssast_lab.model import SSAST, Classifier, EncoderModel


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Kind -> a small model of random weights, which needs no training and draws nonsense in a known way."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    for kind in ("patch", "frame"):
        about = {"title": f"Test {kind} model", "stop_gap": True, "note": f"A {kind} model of random weights."}
        checkpoint.save(SSAST(model_config(f"nano-{kind}", depth=1)), folder / f"test-{kind}", about)
    more = folder / "more"  # what is not offered at first, but stands on the shelf
    more.mkdir()
    torch.save(official_state(figures("patch")), more / "official.pth")
    checkpoint.save(
        Classifier(model_config("nano-patch", depth=1, frames=256, labels=("rain", "a <b>bell</b>", "wind"))),
        more / "classifier",
    )
    write(more / "transformers", theirs(own(EncoderModel), 5))
    (more / "broken.pth").write_text("No weights, but a line of text.\n")
    return folder


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """Name -> file, made from built-in sounds: stereo at 44.1 kHz where they are FLAC, and two that are no sound."""
    folder = tmp_path_factory.mktemp("sounds")
    builtin = audio.builtin_sounds()
    tabla, frogs, water = (soundfile.read(builtin[name]["path"])[0] for name in ("tabla", "frogs", "water"))
    long = np.resize(np.concatenate([tabla, water, frogs]), 30 * audio.SAMPLE_RATE)
    cuts = ("short", frogs[: 3 * audio.SAMPLE_RATE]), ("click", frogs[: audio.SAMPLE_RATE // 10])
    for name, mono in (("ten", tabla), ("long", long), *cuts):
        wave = soxr.resample(mono, audio.SAMPLE_RATE, 44100)
        soundfile.write(folder / f"{name}.flac", np.stack([wave, 0.5 * wave], axis=1), 44100)
    for name in ("notes.txt", "renamed.wav"):
        (folder / name).write_text("Not a sound, but a line of text.\n" * 40)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def server(models, tmp_path_factory):
    """The address of the app in a process of its own; it must end without one traceback and leave no file behind."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "app.py", "--port", str(port), "--models", str(models)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(folder)})
    address, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + 90
    try:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                break
            time.sleep(0.2)
        assert process.poll() is None, (folder / "log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(60)
    said = (folder / "log").read_text()
    assert "Traceback" not in said, said
    assert not list(folder.glob("ssast-lab-*"))


@pytest.fixture
def page(browser, server):
    """A fresh visitor who has seen the first built-in sound; nothing may be asked of any other machine."""
    yield from visit(browser, server)


@pytest.fixture(scope="session")
def shown():
    """Model, excerpt and mask that every visitor sees at first."""
    model = checkpoint.load("tiny-patch")
    piece = analysis.excerpt(audio.load_waveform(next(iter(audio.builtin_sounds().values()))["path"]), model.config)
    return model, piece, analysis.draw_mask(piece, SHARE)
