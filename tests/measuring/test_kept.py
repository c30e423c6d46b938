"""What an earlier release computed and kept is found again: keys and names of files as they were when first written."""

import json

import numpy as np
import pytest
import torch

from ssast_lab import checkpoint
from ssast_lab.config import ModelConfig
from ssast_lab.measuring.compare import compare
from ssast_lab.measuring.compare.rows import read_tasks
from ssast_lab.measuring.studies import hiding, run_hiding
from ssast_lab.measuring.upstreams import upstream
from ssast_lab.model import Classifier

LOGMEL = "6fe61f29ada9c4a785bc50e07a71adab9c41d0eef8da533470a0ca883a4399bb"
ENCODER = "8112a7a08a82f6dc91da13d4dbf370139b424bff87e860a99f97a804fd6eacc1"
TASK = "feb2f038c6bc0060a52441911ad7f91ba43c0be50b0a37db78493965d1dad69b"
ROW = "a810ea6ffcc8aeef40da382b38afa882"
HIDDEN = {"left out": "489c9e7201eb10fc9bf6af772c41569a", "filled": "ad5a28b2e2b93b8b726ec867bf38873a"}


@pytest.fixture
def task(tmp_path):
    """Clips whose contents are no sounds, so that whatever is not found cannot be computed either."""
    folder = tmp_path / "task"
    folder.mkdir()
    rows = ["path,label,source,fold"]
    for number in range(12):
        (folder / f"{number}.wav").write_bytes(bytes([number]) * 100)
        rows.append(f"{number}.wav,{'ab'[number % 2]},s{number},{'train' if number < 8 else 'test'}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def model(tmp_path):
    """A classifier whose weights do not depend on how PyTorch draws them."""
    classifier = Classifier(ModelConfig(width=4, depth=1, heads=1, frames=16, labels=("a", "b")))
    with torch.no_grad():
        for weights in classifier.parameters():
            weights.copy_((torch.arange(weights.numel()) / 8).view(weights.shape))
    return checkpoint.save(classifier, tmp_path / "model")


def test_keys_of_upstreams_and_tasks(model, task):
    assert upstream("logmel").key == LOGMEL
    assert upstream(model).key == ENCODER
    assert read_tasks([task])[0].key == TASK


def test_rows_of_a_comparison(task, tmp_path):
    row = {"layer": 0, "seconds": 1.0, "scores": np.eye(2)[[0, 1, 0, 1]].tolist()}
    (tmp_path / "out" / "rows").mkdir(parents=True)
    (tmp_path / "out" / "rows" / f"{ROW}.json").write_text(json.dumps(row))
    (result,) = compare(["logmel"], [task], tmp_path / "out", cache=None).results
    assert (result.failure, result.figure.value) == ("", 1)


def test_logits_of_hiding(model, task, tmp_path):
    (tmp_path / "runs" / "hidden").mkdir(parents=True)
    for key in HIDDEN.values():
        logits = [np.eye(2)[rows].tolist() for rows in ([0, 1, 0, 1], [0, 0, 0, 0])]
        (tmp_path / "runs" / "hidden" / f"{key}.json").write_text(json.dumps(logits))
    curves, failures = run_hiding([str(model)], [task], tmp_path / "runs", shares=(0, 0.5))
    assert failures == []
    assert {curve.way for curve in curves} == set(HIDDEN) == {hiding.LEFT_OUT, hiding.FILLED}
    assert all([curve.figure(place).value for place in (0, 1)] == [1, 0.5] for curve in curves)
