"""A head is the probe that was judged, kept with the weights it was fitted to, and nothing else is taken for one."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import write_clips

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.checkpoint import CheckpointError, Head, heads, save_head
from ssast_lab.config import ModelConfig
from ssast_lab.data.labelled import read_labelled
from ssast_lab.measuring.probe import ProbeError, probe_task
from ssast_lab.measuring.upstreams import upstream
from ssast_lab.model import SSAST

CONFIG = ModelConfig(width=32, depth=2, heads=2, frames=64)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    return checkpoint.save(SSAST(CONFIG), tmp_path / "model")


@pytest.fixture
def task(tmp_path):
    paths = write_clips(tmp_path / "sounds", 12)
    rows = [f"{path},{'high' if n >= 6 else 'low'},{'test' if n % 3 == 0 else 'train'}" for n, path in enumerate(paths)]
    (tmp_path / "pitch.csv").write_text("path,label,fold\n" + "\n".join(rows) + "\n")
    return read_labelled(tmp_path / "pitch.csv")


def test_a_head_gives_what_its_probe_gave(model, task, tmp_path):
    result = probe_task(upstream(str(model)), task)
    save_head(result.head("pitch"), model / "heads", model)
    head = heads(model)["pitch"]
    assert head.labels == task.labels
    assert head.about["accuracy"][0] == result.scores.accuracy.value
    tested = [clip for clip, fold in zip(task.clips, task.folds, strict=True) if fold == "test"]
    for clip, probabilities in zip(tested, result.scores.scores, strict=True):
        waveform = audio.load_waveform(clip.path)
        embedding = upstream(str(model)).embed(waveform[None], "mean")[0, head.layer]
        assert np.allclose(head(embedding).numpy(), probabilities, atol=0.02)  # the probe cuts a little off the end
    assert probabilities.argmax() == head(embedding).argmax()
    assert float(head(embedding).sum()) == pytest.approx(1)


def test_a_prediction_is_that_of_the_head(model, task):
    head = probe_task(upstream(str(model)), task, layer=1).head("pitch")
    loaded, waveform = checkpoint.load(model), audio.load_waveform(task.clips[0].path)
    excerpt = analysis.excerpt(waveform, CONFIG)
    (told,) = analysis.predict(loaded, [head], excerpt.fbank).values()
    tokens = loaded.encoder(excerpt.fbank[None], layers=[1]).layers[1][0, 2:]
    assert np.allclose(told, head(tokens.mean(0)).detach().numpy(), atol=1e-6)


def test_what_is_hidden_does_not_change_a_prediction(model, task):
    head, loaded = probe_task(upstream(str(model)), task).head("pitch"), checkpoint.load(model)
    excerpt = analysis.excerpt(audio.load_waveform(task.clips[3].path), CONFIG)
    mask = analysis.draw_mask(excerpt, 0.5)
    changed = excerpt.fbank.clone()
    for patch in mask.nonzero().flatten().tolist():
        low, high, first, end = excerpt.grid.bounds(patch)
        changed[first:end, low:high] += 3
    told, same = (analysis.predict(loaded, [head], fbank, mask)["pitch"] for fbank in (excerpt.fbank, changed))
    assert np.array_equal(told, same)
    assert not np.allclose(told, analysis.predict(loaded, [head], changed)["pitch"])


def test_a_probe_of_other_statistics_is_no_head(model, task):
    with pytest.raises(ProbeError, match="on means"):
        probe_task(upstream(str(model)), task, pooling="max").head("pitch")


def test_a_head_of_other_weights_is_refused(model, tmp_path):
    save_head(Head("pitch", ("a", "b"), 0, torch.zeros(2, 32), torch.zeros(2)), model / "heads", model)
    assert list(heads(model)) == ["pitch"]
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="other weights"):
        heads(model)


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "ssast-lab head 1"}, {"format": "ssast-lab head 1", "head": "{"}, {"format": "ssast-lab head 1", "head": "[]"},
     {"format": "ssast-lab head 1", "head": json.dumps({"labels": ["a"], "layer": 0, "about": {}, "model": ""})}],
)  # fmt: skip
def test_what_is_no_head_gets_a_sentence(model, metadata):
    (model / "heads").mkdir()
    save_file({"weight": torch.zeros(2, 32), "bias": torch.zeros(2)}, model / "heads" / "odd.safetensors", metadata)
    with pytest.raises(CheckpointError, match="head"):
        heads(model)


def test_a_damaged_head_gets_a_sentence(model):
    (model / "heads").mkdir()
    (model / "heads" / "odd.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0broken")
    with pytest.raises(CheckpointError, match="cannot be read as a head"):
        heads(model)


def test_a_model_without_heads_has_none(model):
    assert heads(model) == {}
