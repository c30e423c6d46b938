"""Every notebook runs from top to bottom, warns of nothing, and shows what it was to show: its own assertions hold.

They run at small size, and at full size where the environment says SSAST_LAB_SMALL= (nothing).
"""

import ast
import importlib.util
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [
    "0-contents", "1-from-sound-to-patches", "2-masking", "3-two-objectives", "4-pretrain-in-a-cell", "5-what-did-it-learn",
    "6-inside-the-encoder", "7-patch-against-frame", "8-your-own-recordings", "9-the-paper-in-small",
]  # fmt: skip
PICTURES = ("application/vnd.plotly.v1+json", "image/png", "text/html")  # the least that shows something
FEWEST = dict(zip(NAMES, (1, 9, 5, 6, 6, 7, 7, 3, 3, 5), strict=True))  # outputs with a picture in each notebook
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def text_of(path: Path) -> str:
    return "\n".join(cell.source for cell in cells(path, "markdown"))


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@by_name
def test_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 300_000
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert "widgets" not in notebook.metadata
    nbformat.validate(notebook)


@by_name
def test_links_lead_somewhere_and_to_the_neighbours(path):
    links = re.findall(r"\]\(([^)#\s]+)\)", text_of(path))
    assert [link for link in links if "://" not in link and not (FOLDER / link).exists()] == []
    place = NAMES.index(path.stem)
    neighbours = NAMES if place == 0 else NAMES[place - 1 : place + 2]
    assert {f"{name}.ipynb" for name in neighbours} - {path.name} <= set(links)


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_questions_have_folded_answers_and_a_time(path):
    text = text_of(path)
    assert text.count("<details>") == text.count("</details>") >= 1
    assert re.search(r"\*About \d+ minutes", text)
    assert re.search(r"Guess|Question|Before you|Predict|Say first|guess", text)
    assert "assert " in "\n".join(cell.source for cell in cells(path, "code"))


@by_name
def test_no_function_is_longer_than_five_lines(path):
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.end_lineno - node.lineno < 5, node.name


def test_equations_are_drawn_without_a_script():
    spec = importlib.util.spec_from_file_location("render", FOLDER.parent / "docs" / "render.py")
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    text = render.with_equations("Of $x_i$, not `$HOME` nor `$x`:\n$$\\sum_i x_i^* = 1$$")
    assert text.count("<math") == text.count("</math>") == 2
    assert 'display="block"' in text
    assert "`$HOME` nor `$x`" in text
    assert not set("*_") & set(text.replace("`$HOME`", "").replace("`$x`", ""))
    for path in NOTEBOOKS:
        assert "\\" not in re.sub(r"```.*?```|`[^`]*`", "", render.with_equations(text_of(path)), flags=re.S)


@by_name
def test_it_runs_and_shows_what_it_promises(path, tmp_path, monkeypatch):
    monkeypatch.setenv("SSAST_LAB_SMALL", os.environ.get("SSAST_LAB_SMALL", "1"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=where, store_widget_state=False).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in shown if output.output_type == "stream" and output.name == "stderr"]
    pictures = [output for output in shown if any(kind in output.get("data", {}) for kind in PICTURES)]
    assert len(pictures) >= FEWEST[path.stem], "a picture is missing"
    watched = [cell for cell in notebook.cells if "widgets.watch(" in cell.source and cell.cell_type == "code"]
    assert len(watched) == (3 if path.stem == "4-pretrain-in-a-cell" else 0)
    for cell in watched:  # one output that changed
        assert [output.output_type for output in cell.outputs] == ["display_data"]
        assert "<svg" in cell.outputs[0].data["text/html"]
        assert "A held-out clip after" in cell.outputs[0].data["text/html"]
        assert len(cell.outputs[0].data["text/html"]) < 300_000
