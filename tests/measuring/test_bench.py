"""The benchmark runs, and its arithmetic is right. (How fast things are is for the benchmark to say, not for a test.)"""

import json

import pytest
from tiny import tiny, write_clips

from ssast_lab.config import model_config
from ssast_lab.measuring import bench as benchmark
from ssast_lab.measuring.bench import bench, count_operations, steady_rate


def test_it_measures_and_writes(tmp_path, capsys, monkeypatch):
    out = tmp_path / "figures.json"
    write_clips(tmp_path / "sounds", 6)
    monkeypatch.setattr(benchmark, "pretrain_config", lambda _, **sounds: tiny(data=sounds))
    bench("nano-patch", batch=1, repeats=1, feed=tmp_path / "sounds", out=out)
    figures = json.loads(out.read_text())
    assert all(row["clips_per_second"] > 0 for row in figures["steps"].values())
    assert figures["share_of_matrix_rate"] > 0
    assert figures["feed"]["files"] > 0
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


def test_what_was_read_ahead_does_not_hide_slow_files():
    """Eight batches of 2 were read ahead and take no time; the others come four at once, every 0.4 s."""
    seconds = [0.001] * 8 + [0.001 + 0.4 * burst for burst in range(1, 5) for _ in range(4)]
    assert steady_rate(seconds, batch=2, ahead=8) == pytest.approx(2 / 0.1)
