"""Every notebook runs from top to bottom, and what it was to show is there."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["pretrain.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    assert path.stat().st_size < 1_000_000
    assert not outputs(nbformat.read(path, as_version=4))


def test_pretrain(tmp_path, monkeypatch):
    monkeypatch.setenv("SSAST_LAB_NOTEBOOK_STEPS", "240")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = outputs(run(NOTEBOOKS[0], tmp_path))
    text = "".join(output.text for output in found if output.output_type == "stream" and output.name == "stdout")
    noise = "".join(output.text for output in found if output.output_type == "stream" and output.name == "stderr")
    assert not noise

    lines = [line for line in text.splitlines() if line.startswith("step")]
    (first, first_mse), (last, last_mse) = (
        (float(line.split("accuracy ")[1].split("%")[0]), float(line.split("MSE ")[1])) for line in lines
    )
    assert last > 3.0, "the accuracy is no better than three times chance"
    assert last_mse < 0.95 * first_mse  # after 20 steps the first has fallen most of the way already
    assert first < last

    mine, given = (
        tuple(float(part.split()[0].rstrip(";")) for part in line.split("MSE ")[1].split("gives "))
        for line in text.splitlines()
        if line.startswith("MSE")
    )
    assert mine[0] < 1.5 * mine[1]  # few steps on few sounds: in reach of the trivial baseline, not beyond it
    assert given[1] == mine[1]  # the same sound, and the same of it hidden
    assert given[0] < 0.7 * given[1]
    pictures = [output for output in found if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(pictures) >= 6  # curves and a reconstruction, twice, and two overviews
