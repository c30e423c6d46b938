"""A fine-tuned official file does not say its length and stride: which layouts its positions fit, and which one is taken."""

import os
import re
import subprocess
import sys
import warnings

import pytest
import torch
from golden_model import figures, official_state

from ssast_lab import checkpoint
from ssast_lab.__main__ import main
from ssast_lab.checkpoint import CheckpointError, LayoutWarning
from ssast_lab.checkpoint.layouts import layouts, strides_of
from ssast_lab.config import ModelConfig, model_config
from ssast_lab.model import SSAST, Classifier, resample_positions

LABELS = ("a", "b", "c")


def trained(kind):
    """(1, 2 + N, D) positions: learned, recorded from the official code's tests, or as they start."""
    if kind.startswith("tiny"):
        return checkpoint.load(kind).encoder.positions.detach()
    if kind == "golden":
        return official_state(figures("patch"))["v.pos_embed"]
    torch.manual_seed(0)
    model = SSAST(model_config("tiny-patch"))
    if kind == "sines and cosines":
        model.encoder.start_as_mae()
    return model.encoder.positions.detach()


@pytest.mark.parametrize("kind", ["tiny-patch", "golden", "as they start", "sines and cosines"])
@pytest.mark.parametrize("frames", [50, 128, 208, 250, 312, 400, 512])
def test_positions_that_overlap_tell_their_own_layout(kind, frames):
    """Whatever they were before: the official code interpolates them in frequency."""
    old, new = ModelConfig().grid, ModelConfig(frames=frames, stride=(10, 10)).grid
    positions = resample_positions(trained(kind), old, new)[0, 2:]
    found = layouts(positions, (16, 16), 128, strides_of((16, 16), 128, True))
    assert (found[0].stride, found[0].rows, found[0].columns) == ((10, 10), new.rows, new.columns)
    assert found[0].frames <= frames <= found[0].longest
    for other in found[1:]:
        assert found[0].likeness - other.likeness > 0.3


@pytest.mark.parametrize("kind", ["tiny-patch", "sines and cosines"])
@pytest.mark.parametrize("frames", [192, 288, 720])
def test_positions_that_were_learned_tell_theirs_without_overlap(kind, frames):
    old, new = ModelConfig().grid, ModelConfig(frames=frames).grid
    positions = resample_positions(trained(kind), old, new)[0, 2:]
    found = layouts(positions, (16, 16), 128, strides_of((16, 16), 128, True))
    assert len(found) == 2
    assert (found[0].stride, found[0].frames) == ((16, 16), frames)


def fine_tuned(path, frames, stride, patch=(16, 16), smooth=True):
    """A classifier in the official layout, whose positions are like trained ones, or like noise, which tells nothing."""
    torch.manual_seed(0)
    model = Classifier(
        ModelConfig(width=192, depth=1, heads=3, frames=frames, stride=stride, patch=patch, labels=LABELS)
    ).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
        if smooth:
            start = SSAST(ModelConfig(width=192, depth=1, heads=3, patch=patch, stride=patch)).encoder
            start.start_as_mae()
            model.encoder.positions.copy_(resample_positions(start.positions, start.grid, model.config.grid))
    folder = checkpoint.export(model, path.with_name(f"{path.name}.folder"), "official").path
    (folder / "model.pth").rename(path)
    return model


@pytest.mark.parametrize(
    ("frames", "stride", "patch"),
    [
        (312, (10, 10), (16, 16)), (50, (10, 10), (16, 16)), (250, (10, 10), (16, 16)), (208, (10, 10), (16, 16)),
        (512, (10, 10), (16, 16)), (1024, (10, 10), (16, 16)), (50, (128, 1), (128, 2)), (300, (128, 1), (128, 2)),
        (720, (16, 16), (16, 16)),
    ],
    ids=str,
)  # fmt: skip
@torch.no_grad()
def test_a_length_of_ones_own(frames, stride, patch, tmp_path):
    model = fine_tuned(tmp_path / "x.pth", frames, stride, patch)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded, report = checkpoint.load_with_report(tmp_path / "x.pth")
    assert loaded.config.stride == stride
    sound = torch.randn(2, frames, 128)
    torch.testing.assert_close(loaded(sound), model(sound), rtol=0, atol=1e-6)
    assert len(said) == (len(report.layouts) > 1)
    if said:
        sentence = str(said[0].message)
        assert said[0].category is LayoutWarning
        assert f"stride of {stride[0]}x{stride[1]}" in sentence
        for layout in report.layouts:
            assert f"?frames={layout.frames}&stride={layout.stride[0]}x{layout.stride[1]}" in sentence


@pytest.mark.parametrize("frames", [50, 208, 250, 312])
def test_where_nothing_tells_them_apart_the_recipes_stride_is_taken(frames, tmp_path):
    model = fine_tuned(tmp_path / "noise.pth", frames, (10, 10), smooth=False)
    with pytest.warns(LayoutWarning, match="official recipes fine-tune at that stride, and nothing else"):
        loaded = checkpoint.load(tmp_path / "noise.pth")
    assert loaded.config.grid.columns == model.config.grid.columns
    assert loaded.config.stride == (10, 10)


@pytest.mark.filterwarnings("ignore::ssast_lab.checkpoint.LayoutWarning")
@torch.no_grad()
def test_the_answer_can_be_given(tmp_path, capsys):
    """In Python, and after the name wherever a model is named."""
    noise = fine_tuned(tmp_path / "noise.pth", 720, (16, 16), smooth=False)
    path, sound = tmp_path / "noise.pth", torch.randn(1, 720, 128)
    main(["info", str(path)])
    shown = capsys.readouterr().out
    assert "layout taken: 306 to 315 frames at a stride of 10x10 (12 x 30 patches)" in shown
    assert "would fit as well: 720 to 735 frames at a stride of 16x16 (8 x 45 patches)" in shown
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = [
            checkpoint.load(path, frames=720, stride=(16, 16)),
            checkpoint.load(path, frames=720),
            checkpoint.load(path, stride=(16, 16)),
            checkpoint.load(f"{path}?frames=720"),
            checkpoint.load(f"{path}?frames=720&stride=16x16"),
        ]
        main(["info", f"{path}?stride=16x16"])
    assert "8 x 45 = 360 in 720 frames" in capsys.readouterr().out
    for model in given:
        torch.testing.assert_close(model(sound), noise(sound), rtol=0, atol=1e-6)
    assert checkpoint.load(f"{path}?pooling=cls").config.pooling == "cls"


def test_the_command_line_says_it_in_one_line(tmp_path):
    fine_tuned(tmp_path / "x.pth", 312, (10, 10))
    (environment := dict(os.environ)).pop("PYTHONWARNINGS", None)
    run = [sys.executable, "-m", "ssast_lab", "info", str(tmp_path / "x.pth")]
    ended = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0
    (line,) = ended.stderr.splitlines()
    assert line.startswith(
        f"ssast-lab info: {tmp_path / 'x.pth'} fits several layouts: 306 to 315 frames at a stride of 10x10"
    )


@pytest.mark.parametrize(
    ("asked", "word"),
    [("frames=100", "fit"), ("stride=9x9", "fit"), ("frames=x", "no setting"), ("frame=3", "no setting"), ("stride=3", "no setting"), ("", "no setting")],
)  # fmt: skip
def test_an_answer_that_cannot_be(asked, word, tmp_path):
    fine_tuned(tmp_path / "x.pth", 312, (10, 10))
    with pytest.raises(CheckpointError, match=word) as caught:
        checkpoint.load(f"{tmp_path / 'x.pth'}?{asked}")
    assert re.fullmatch(r"[^\n]+\.", str(caught.value))


def test_a_name_with_a_question_mark_is_a_name(tmp_path):
    fine_tuned(tmp_path / "what?frames=1", 1024, (10, 10))
    assert checkpoint.load(tmp_path / "what?frames=1").config.frames == 1024
