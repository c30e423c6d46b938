"""Runs are what they were: a few steps of every kind, against figures that were recorded earlier."""

import json

import golden_runs
import pytest


@pytest.mark.parametrize("name", golden_runs.RUNS)
def test_a_run_is_what_it_was(name, tmp_path):
    """Processors round differently: that changed these figures by less than 4e-6 of their size."""
    expected = json.loads(golden_runs.FIGURES.read_text())[name]
    figures = golden_runs.figures(name, tmp_path / name)
    assert [line.keys() for line in figures] == [line.keys() for line in expected]
    for line, before in zip(figures, expected, strict=True):
        assert line == pytest.approx(before, rel=1e-5)
