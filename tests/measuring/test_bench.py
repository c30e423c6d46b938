"""The benchmark runs and says something that can be true. (How fast things are is for the benchmark to say, not for a test.)"""

import json
import time

import pytest
from tiny import tiny, write_clips

from ssast_lab.config import model_config
from ssast_lab.data import clips
from ssast_lab.measuring import bench as benchmark
from ssast_lab.measuring.bench import bench, count_operations


def test_it_measures_and_writes(tmp_path, capsys):
    out = tmp_path / "figures.json"
    bench("nano-patch", batch=1, repeats=1, out=out)
    figures = json.loads(out.read_text())
    assert all(row["clips_per_second"] > 0 for row in figures["steps"].values())
    assert figures["share_of_matrix_rate"] > 0
    assert "ours, fp32" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nano-patch", "tiny-frame"])
def test_operations_are_those_of_the_matrix_products(name):
    config, masks = model_config(name), 400
    width, patches, values = config.width, config.grid.count, config.grid.values
    tokens = patches + 2
    layer = tokens * 12 * width**2 + 2 * tokens**2 * width  # qkv, projection, MLP; scores and their sum
    heads = 2 * masks * (width**2 + width * values)
    embedding, scores = patches * values * width, masks**2 * values
    forward = config.depth * layer + heads + embedding + scores
    backward = 2 * forward - embedding - scores  # no gradient flows into the spectrogram or the targets
    assert count_operations(name, masks) == pytest.approx(2 * (forward + backward), rel=0.01)


def test_files_that_are_read_slowly_are_said_to_be_slow(tmp_path, monkeypatch):
    """Not hidden by what the workers have read ahead."""
    write_clips(tmp_path, 6)
    read = clips.read_piece
    monkeypatch.setattr(clips, "read_piece", lambda *piece: time.sleep(0.1) or read(*piece))
    monkeypatch.setattr(benchmark, "pretrain_config", lambda _, **sounds: tiny(data=sounds))
    found = benchmark._feed("nano-patch", 12, 2, tmp_path)
    assert found["files"] < 1.1 * 2 / 0.1  # two workers
