"""What notebooks show of records, stages and runs, without a browser."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import traitlets
from PIL import Image

from ssast_lab import analysis, audio, figures, stage, widgets
from ssast_lab.learning.pretrain import Evaluation
from ssast_lab.learning.task import EvaluationResult, StepResult
from ssast_lab.objectives import Losses


@pytest.fixture
def record(nano):
    torch.manual_seed(0)
    fbank = torch.randn(64, 128) / 2
    mask = torch.zeros(nano.grid.count, dtype=torch.bool)
    mask[::3] = True
    return analysis.reconstruct(nano, fbank, mask, start=1.0)


def sounds_in(text):
    for data in re.findall(r"data:audio/flac;base64,([^\"]+)", text):
        yield soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")


def test_a_reconstruction_shows_a_picture_and_plays_what_it_says(record):
    shown = record._repr_mimebundle_()
    assert Image.open(io.BytesIO(shown["image/png"])).size[0] == 1800
    assert f"{record.hidden} of {record.grid.count} patches hidden" in shown["text/plain"]
    heard = [wave for wave, rate in sounds_in(shown["text/html"]) if rate == audio.SAMPLE_RATE]
    expected = stage.inverted(record, record.audio).numpy()
    gain = 1 / max(np.abs(expected).max(), 1)
    assert len(heard) == len(expected) == 3
    for wave, one in zip(heard, expected, strict=True):
        assert np.abs(wave - one * gain).max() < 1 / 32000


def test_the_picture_is_the_reconstruction(record):
    """Pixels of a row have the colours of the record's own picture."""
    whole = np.asarray(Image.open(io.BytesIO(figures.still(record, ["reconstruction"]))).convert("RGBA")).astype(int)
    other = replace(record, reconstruction=record.reconstruction[::-1].copy())
    turned = np.asarray(Image.open(io.BytesIO(figures.still(other, ["reconstruction"]))).convert("RGBA")).astype(int)
    same = (figures.still(record, ["reconstruction"]), figures.still(record, ["reconstruction"]))
    assert whole.shape == turned.shape
    assert np.abs(whole - turned).max() > 50
    assert same[0] == same[1]


@pytest.mark.parametrize("kind", ["attention", "match", "excerpt"])
def test_other_records_show_themselves(nano, kind):
    fbank = torch.randn(64, 128) / 2
    mask = torch.zeros(nano.grid.count, dtype=torch.bool)
    mask[:5] = True
    made = {
        "attention": lambda: analysis.attend(nano, fbank),
        "match": lambda: analysis.match(nano, fbank, mask),
        "excerpt": lambda: analysis.excerpt(torch.randn(audio.OFFICIAL.samples_of(64)), nano.config),
    }
    shown = made[kind]()._repr_mimebundle_()
    assert Image.open(io.BytesIO(shown["image/png"])).size[0] == 1800  # also where no script draws the figure


def test_a_stage_answers_what_is_painted(nano):
    shown = widgets.Stage(torch.randn(audio.OFFICIAL.samples_of(64)), nano)
    sent, changes = [], []
    shown.send = lambda message, buffers=None: sent.append(message)
    shown.observe(lambda change: changes.append(change["new"]), "mask")
    shown._told(shown, {"do": "paint", "hidden": [1, 4, 4, -7, 10**9, "5"], "stroke": 3}, [])
    assert np.flatnonzero(shown.mask).tolist() == np.flatnonzero(changes[-1]).tolist() == [1, 4]
    assert sent[-1]["picture"]["stroke"] == 3
    assert shown.record.hidden == 2
    assert shown.record.mse == pytest.approx(
        analysis.reconstruct(nano, shown.excerpt.fbank, torch.from_numpy(shown.mask.copy())).mse
    )
    shown._told(shown, {"do": "hear"}, [])
    assert sent[-1]["sounds"]["key"] == sent[-2]["picture"]["key"]
    shown._told(shown, {"do": "paint", "hidden": [], "stroke": 4}, [])
    assert shown.record.hidden == 0


def test_a_mask_that_does_not_fit_is_refused(nano):
    shown = widgets.Stage(torch.randn(audio.OFFICIAL.samples_of(64)), nano)
    before = shown.mask
    with pytest.raises(traitlets.TraitError, match=f"of {nano.grid.count} patches"):
        shown.mask = np.ones(nano.grid.count + 1, bool)
    assert shown.mask is before


def test_another_sound_keeps_the_mask_where_it_fits_and_its_share_elsewhere(nano):
    shown = widgets.Stage(torch.randn(audio.OFFICIAL.samples_of(64)), nano)
    mask = np.arange(nano.grid.count) % 2 == 0
    shown.mask = mask
    first = shown.record
    shown.sound = torch.randn(audio.OFFICIAL.samples_of(64))
    assert np.array_equal(shown.mask, mask)
    assert shown.record is not first
    shown.sound = torch.randn(audio.OFFICIAL.samples_of(32))
    assert len(shown.mask) == shown.excerpt.grid.count < nano.grid.count
    assert shown.mask.mean() == pytest.approx(0.5, abs=0.07)


def test_the_controls_follow_what_was_painted_and_chosen(nano):
    shown = widgets.explore("frogs", nano)
    chosen, count, _, seed = shown.children[0].children
    count.value = 9
    assert shown.stage.mask.sum() == 9
    first = shown.stage.mask
    seed.value = 5
    assert shown.stage.mask.sum() == 9
    assert not np.array_equal(shown.stage.mask, first)
    shown.stage._told(shown.stage, {"do": "paint", "hidden": [3], "stroke": 1}, [])
    assert (count.value, np.flatnonzero(shown.stage.mask).tolist()) == (1, [3])
    shown.stage.sound = "tabla"
    assert chosen.value == "tabla"
    assert np.flatnonzero(shown.stage.mask).tolist() == [3]
    chosen.value = "water"
    assert shown.stage.sound == "water"
    shown.stage.sound = torch.randn(audio.OFFICIAL.samples_of(32))
    assert chosen.value is None
    assert count.max == shown.stage.excerpt.grid.count < nano.grid.count


def test_models_are_compared_at_the_same_share(nano):
    shown = widgets.compare("frogs", [nano, nano])
    share = shown.children[0].children[1]
    share.value = 25
    assert [one.mask.mean() for one in shown.stages] == [pytest.approx(0.25, abs=0.02)] * 2
    shown.stages[0].sound = "tabla"
    assert shown.stages[1].sound == "tabla"


def test_for_a_page_a_widget_is_its_picture_and_sounds(nano, monkeypatch):
    shown = widgets.Stage(torch.randn(audio.OFFICIAL.samples_of(64)), nano)
    assert "image/png" in shown._repr_mimebundle_()[0]
    monkeypatch.setenv("SSAST_LAB_STILL", "1")
    bundle = shown._repr_mimebundle_()
    assert not [kind for kind in bundle if "widget" in kind]
    assert len(list(sounds_in(bundle["text/html"]))) == 3


def steps(record, count=400):
    for number in range(1, count + 1):
        losses = Losses(5.0, 4.0 - number / count, 0.5 / number, number / count)
        evaluation = Evaluation(5.0, 4.0, 0.5, 0.2, 3, 10) if number % 100 == 0 else None
        held_out = EvaluationResult(evaluation, 5.0, 0.2, (record,)) if evaluation else None
        yield StepResult(number, 0.0, losses, 1.0, 1e-3, 10.0, float(number), held_out)


def test_watching_changes_one_output(record, monkeypatch):
    shown = []

    class Handle:
        def update(self, what):
            shown[-1].append(what._repr_html_())

    def display(what, display_id):
        shown.append([what._repr_html_()])
        return Handle()

    monkeypatch.setattr("ssast_lab.widgets.training.display", display)
    assert [
        step.step
        for step in widgets.watch(
            steps(record), reference=[{"step": 5, "held_out_nce": 1.0, "held_out_accuracy": 0.1, "held_out_mse": 0.3}]
        )
    ] == list(range(1, 401))
    (output,) = shown
    assert len(output) >= 5
    assert len(output[-1]) < 300_000
    assert "after 400 steps" in output[-1]
    assert "reference" in output[-1]
    assert len(list(sounds_in(output[-1]))) == 1


def test_the_reference_run_learned():
    lines = widgets.reference()
    assert lines[-1]["held_out_mse"] < lines[0]["held_out_mse"]
    assert lines[-1]["held_out_accuracy"] > 0.02
