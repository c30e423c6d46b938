"""What loading took of a file, left and missed: every weight of the model and every tensor of the file stands in the report once."""

import re

import pytest
import torch
from golden_model import figures, official_state
from safetensors.torch import load_file
from test_huggingface import own, theirs, write

from ssast_lab import checkpoint
from ssast_lab.config import model_config
from ssast_lab.model import SSAST, Classifier, EncoderModel


def small(**changes):
    return SSAST(model_config("nano-patch", **dict(width=16, depth=1, heads=2, frames=64) | changes))


def names(weights):
    return [weight.name for weight in weights]


def test_our_own_checkpoint_is_taken_whole(tmp_path):
    path = checkpoint.save(small(), tmp_path / "m", half=True)
    model, report = checkpoint.load_with_report(path)
    assert names(report.taken) == list(model.state_dict())
    assert set(names(report.taken)) == set(load_file(path / checkpoint.WEIGHTS))
    assert (report.left, report.missing) == ((), ())
    assert [weight.shape for weight in report.taken] == [tuple(value.shape) for value in model.state_dict().values()]
    assert report.taken[0].note == "mask_token (float16)"


def test_a_classifier_lacks_the_pretext_heads(tmp_path):
    checkpoint.save(Classifier.from_pretrained(small(), ["a", "b"]), tmp_path / "c")
    _, report = checkpoint.load_with_report(tmp_path / "c")
    assert set(names(report.missing)) == set(small().state_dict()) - set(names(report.taken))
    assert "mask_token" in names(report.missing)
    assert all("pretext" in weight.note for weight in report.missing)


@pytest.mark.parametrize("shape", ["patch", "frame"])
def test_every_tensor_of_an_official_file_is_accounted_for(tmp_path, shape):
    held = official_state(figures(shape))
    state = {f"module.{name}": value for name, value in held.items()}
    extra = {"module.v.head.weight": torch.zeros(3, 4), "module.v.head.bias": torch.zeros(3)}
    torch.save(state | extra, tmp_path / "official.pth")
    model, report = checkpoint.load_with_report(tmp_path / "official.pth")
    sources = {weight.note.partition(" (")[0] for weight in report.taken}
    left = set(names(report.left))
    assert names(report.taken) == list(model.state_dict())
    assert sources.isdisjoint(left)
    assert sources | left == set(held) | {"v.head.weight", "v.head.bias"}
    assert {"v.head.weight", "v.head.bias"} <= left
    assert report.missing == ()


@pytest.mark.parametrize("version", [4, 5])
def test_folders_of_transformers_say_what_was_joined_and_made_up(tmp_path, version):
    state = theirs(own(EncoderModel), version)
    biases = [name for name in state if re.search(r"(query|key|value|[qkv]_proj)\.bias$", name)]
    for name in biases:
        del state[name]
    write(tmp_path / "hf", state, {"qkv_bias": False}, way="shards")
    model, report = checkpoint.load_with_report(tmp_path / "hf")
    taken = {weight.name: weight.note.partition(" (")[0].split(" + ") for weight in report.taken}
    assert len(taken["encoder.blocks.0.attention.qkv.weight"]) == 3
    assert sorted(name for names in taken.values() for name in names) == sorted(state)
    zeros = [name for name in model.state_dict() if name.endswith("qkv.bias")]
    assert set(model.state_dict()) - set(taken) == set(zeros)
    assert names(report.missing)[: len(zeros)] == zeros
    assert "mask_token" in names(report.missing)


def test_the_report_tells_positions_features_and_a_fingerprint(tmp_path, capsys):
    from ssast_lab.__main__ import main

    path = checkpoint.save(small(), tmp_path / "m")
    model, report = checkpoint.load_with_report(path)
    assert report.positions == "2 + 32 for 8 x 4 patches, as they stand in the file; none was cut or interpolated"
    assert report.features == "128 mel bins, mean -4.26774, deviation 4.569: what config.json says"
    torch.save(official_state(figures("patch")), tmp_path / "official.pth")
    official = checkpoint.load_with_report(tmp_path / "official.pth")[1]
    assert "the file says none" in official.features
    hf = checkpoint.load_with_report(write(tmp_path / "hf", theirs(own(EncoderModel), 5)))[1]
    assert "there is no preprocessor_config.json" in hf.features

    assert report.fingerprint == checkpoint.fingerprint(model)
    again = checkpoint.export(model, tmp_path / "again", "transformers").path
    assert checkpoint.load_with_report(again)[1].fingerprint == report.fingerprint, "whatever layout it is in"
    with torch.no_grad():
        model.mask_token[0, 0, 0] += 1e-6
    assert checkpoint.fingerprint(model) != report.fingerprint

    main(["info", str(tmp_path / "official.pth")])
    said = capsys.readouterr().out
    for line in official.lines():
        assert f"  {line}\n" in said
    assert "left: v.head.weight and 3 more: a head of ImageNet that SSAST never trains" in said
    assert "fingerprint of what it does with the sound" in said


def test_random_weights_are_all_made_up():
    model, report = checkpoint.load_with_report("scratch:nano-patch")
    assert names(report.missing) == list(model.state_dict())
    assert (report.taken, report.left) == ((), ())
