"""What curves say: of made-up ones, each with one defect, and of real runs."""

import numpy as np
import pytest
from tiny import here, tiny, train, write_clips

from ssast_lab.learning.diagnosis import diagnose
from ssast_lab.learning.run import Run

M = 100


def lines(nce, accuracy=0.1, held_out=()):
    """Of a run with the noise of small batches."""
    noise = np.random.default_rng(0).normal(0, 0.05, len(nce))
    found = [
        {"step": step, "loss": value + 0.5 + more, "nce": value + more, "accuracy": accuracy}
        for step, (value, more) in enumerate(zip(nce, noise, strict=True), 1)
    ]
    for place, value in zip(np.linspace(0, len(nce) - 1, len(held_out)).astype(int), held_out, strict=True):
        found[place]["held_out_loss"] = value
    return found


FALLING = np.log(M) * np.exp(-np.arange(400) / 400)
CURVES = {
    "starting": lines(FALLING[:20]),
    "learning": lines(FALLING),
    "at chance": lines(np.full(400, np.log(M)), accuracy=1 / M),
    "flat": lines(np.concatenate([np.linspace(4.6, 3, 100), np.full(300, 3.0)])),
    "diverging": lines(np.concatenate([np.linspace(4.6, 3, 300), np.linspace(3, 4.2, 100)])),
    "memorising": lines(FALLING, held_out=[4.5, 4.0, 4.1, 4.2, 4.3]),
}


@pytest.mark.parametrize("finding", CURVES)
def test_each_curve_is_told_for_what_it_is(finding):
    found = diagnose(CURVES[finding], M)
    assert found.finding == finding
    assert found.sentence.endswith(".")


@pytest.mark.parametrize("finding", ["learning", "flat", "diverging", "at chance"])
def test_the_noise_of_steps_changes_no_finding(finding):
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(0, 0.05, 400)
        noisy = [line | {"loss": line["loss"] + more} for line, more in zip(CURVES[finding], noise, strict=True)]
        assert diagnose(noisy, M).finding == finding


@pytest.mark.parametrize(("rate", "findings"), [(1e-9, {"at chance"}), (2e-3, {"learning", "flat"})])
def test_real_runs(tmp_path, rate, findings):
    write_clips(tmp_path / "clips", 12)
    config = tiny(tmp_path / "clips", steps=150, learning_rate=rate, evaluate_every=50, warmup=10)
    train(config, here(tmp_path / "run", checkpoint_every=1000))
    assert diagnose(Run(tmp_path / "run").metrics(), 12).finding in findings
