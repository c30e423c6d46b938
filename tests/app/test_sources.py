"""What can be chosen: models that are none are left out with a sentence, and the app starts without them."""

import json
import os
import shutil

import pytest
import torch
from started import ask, started
from test_safe import call

from ssast_lab import analysis, app, checkpoint
from ssast_lab.app import handlers, sources
from ssast_lab.app.state import Seen


def spoil(name, folder):
    """Makes a checkpoint that is none, each of another kind."""
    config = folder / checkpoint.CONFIG
    told = json.loads(config.read_text())
    if name == "missing fields":
        config.write_text(json.dumps(told | {"model": {}, "about": None}))
    elif name == "missing model":
        config.write_text(json.dumps({key: value for key, value in told.items() if key != "model"}))
    elif name == "wrong types":
        config.write_text(json.dumps(told | {"model": told["model"] | {"patch": "16", "width": None, "audio": 7}}))
    elif name == "a list":
        config.write_text("[1, 2, 3]")
    elif name == "no JSON":
        config.write_text("{'format': ")
    elif name == "huge sizes":
        config.write_text(json.dumps(told | {"model": told["model"] | {"depth": 10**12, "width": 10**30}}))
    elif name == "not finite":
        config.write_text(json.dumps(told | {"model": told["model"] | {"width": float("nan"), "frames": float("inf")}}))
    elif name == "huge file":
        with config.open("r+b") as file:
            file.truncate(1 << 33)
    elif name == "deep":
        config.write_text("[" * 100_000)
    elif name == "wrong encoding":
        config.write_bytes(json.dumps(told | {"about": {"title": "Zürich"}}, ensure_ascii=False).encode("utf-16"))
    elif name == "latin":
        config.write_bytes(json.dumps(told | {"about": {"title": "Zürich"}}, ensure_ascii=False).encode("latin-1"))
    elif name == "a folder":
        config.unlink()
        config.mkdir()
    elif name == "unreadable":
        config.unlink()
        config.symlink_to(config.name)  # a circle: whoever is root can read all else
    elif name == "no weights":
        (folder / checkpoint.WEIGHTS).unlink()
    elif name == "unknown kind":
        config.write_text(json.dumps(told | {"kind": "opera"}))
    elif name == "unknown field":
        config.write_text(json.dumps(told | {"model": told["model"] | {"opera": 1}}))


KINDS = ["missing fields", "missing model", "wrong types", "a list", "no JSON", "huge sizes", "not finite", "huge file", "deep",
         "wrong encoding", "latin", "a folder", "unreadable", "no weights", "unknown kind", "unknown field"]  # fmt: skip


def copy(models, folder, name):
    shutil.copytree(models / "test-patch", folder / name)
    return folder / name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_model_is_left_out_with_a_sentence(models, tmp_path, capsys, kind):
    copy(models, tmp_path, "whole")
    spoil(kind, copy(models, tmp_path, "spoilt"))
    found = app.find_models([tmp_path])
    assert "whole" in found
    assert "spoilt" not in found
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("Left out: ")
    assert str(tmp_path / "spoilt") in said
    assert said.endswith(".")
    assert len(said) < 500


def test_a_classifier_is_named_and_a_model_without_a_note_tells_its_training(models, tmp_path, capsys):
    shutil.copytree(models / "more" / "classifier", tmp_path / "birds")
    config = copy(models, tmp_path, "own") / checkpoint.CONFIG
    told = json.loads(config.read_text())
    about = {"steps": 1200, "clips": 19200, "held_out": {"mse": 0.0512, "accuracy": 0.234}}
    config.write_text(json.dumps(told | {"about": about}))
    found = app.find_models([tmp_path])
    assert "birds" not in found
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("birds is no pretraining model: it stands in the tab Models")
    assert found["own"].note == (
        "Trained for 1,200 steps on 19,200 clips. On clips that were held out: MSE 0.051, 23.4% of the hidden patches recognised."
    )


def test_the_app_starts_without_them_and_tells_its_visitors_no_path(models, tmp_path):
    for kind in KINDS:
        spoil(kind, copy(models, tmp_path / "models", kind))
    copy(models, tmp_path / "models", "whole")
    damaged = copy(models, tmp_path / "models", "damaged") / checkpoint.WEIGHTS
    os.truncate(damaged, damaged.stat().st_size // 2)  # which only shows when it is read
    with started(tmp_path / "here", "--models", tmp_path / "models", "--models", tmp_path / "models" / "whole") as here:
        event, said = call(here.address, "reconstruct", None, "frogs", "damaged", 0.0, 100, "5", 3)
        assert (event, said["error"]) == (
            "error",
            "The model damaged cannot be loaded: the terminal of this page says why.",
        )
        assert call(here.address, "reconstruct", None, "frogs", "whole", 0.0, 100, "5", 3)[0] == "complete"
        assert str(tmp_path) not in ask(here.address + "config")[1]
    told = here.log.read_text()
    assert told.count("Left out: ") == len(KINDS)
    assert "checksum differs" in told
    assert "Traceback" not in told


def test_a_picture_is_not_heard_with_the_sound_that_came_after_it():
    """Both are states of the page, of which the second may be new while the first is still the one before."""
    model = sources.find_models()["tiny-patch"]
    network = sources.load_model(model.path)
    long, short = (sources.Sound("noise", "", torch.randn(round(seconds * 16_000)) * 0.1) for seconds in (5.0, 2.0))
    piece = analysis.excerpt(long.at(16_000), network.config, 1.5)
    seen = Seen("key", model, analysis.reconstruct(network, piece.fbank, analysis.draw_mask(piece), 1.5))
    assert handlers.on_hear({}, short, seen, None) == {}
    assert handlers.on_hear({}, long, seen, None)["sounds"]["key"] == "key"
