"""What an installation lacks is said in one sentence, with the command that installs it."""

import subprocess
import sys

import pyarrow.parquet
import pytest
from tiny import ALONE, write_clips

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""
APP = ("gradio", "plotly", "PIL", "kaleido")


def without(packages, script, folder) -> subprocess.CompletedProcess:
    code = BLOCKED.format(names=packages) + script
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=ALONE, capture_output=True, text=True)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    write_clips(folder, 2, (1, 2))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "sounds.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"audio": [b"no sound"]}), path)
    return path


@pytest.mark.parametrize(
    ("packages", "asked", "package", "extra"),
    [
        (APP, ["app", "--port", "0"], "plotly", "app"),
        (("gradio",), ["app", "--port", "0"], "gradio", "app"),
        (APP, ["info", "tiny-patch", "--evaluate", "SOUNDS", "--pictures", "out.png"], "plotly", "app"),
        (("kaleido",), ["info", "tiny-patch", "--evaluate", "SOUNDS", "--pictures", "out.png"], "kaleido", "pictures"),
        (("kaleido",), ["info", "tiny-patch", "--curves", "out.svg"], "kaleido", "pictures"),
        (("pyarrow",), ["embed", "tiny-patch", "SOUNDS", "--out", "out.parquet"], "pyarrow", "parquet"),
        (("pyarrow",), ["data", "look", "TABLE"], "pyarrow", "parquet"),
        (("onnx",), ["export", "tiny-patch", "out", "--to", "onnx"], "onnx", "onnx"),
        (("onnxscript",), ["export", "tiny-patch", "out", "--to", "onnx"], "onnxscript", "onnx"),
        (("onnxruntime",), ["export", "tiny-patch", "out", "--to", "onnx", "--int8"], "onnxruntime", "onnx"),
        (("huggingface_hub",), ["info", "hf:some/model"], "huggingface_hub", "hub"),
        (("huggingface_hub",), ["embed", "hf:some/model", "SOUNDS", "--out", "out.npz"], "huggingface_hub", "hub"),
    ],
)
def test_a_command_says_what_it_needs(packages, asked, package, extra, sounds, table, tmp_path):
    places = {"SOUNDS": str(sounds), "TABLE": str(table)}
    asked = [places.get(word, word) for word in asked]
    ended = without(packages, f"from ssast_lab.__main__ import main\nmain({asked!r})", tmp_path)
    assert ended.returncode == 1
    said = ended.stderr.strip().splitlines()
    assert len(said) == 1, ended.stderr
    assert said[0].startswith(f"ssast-lab {asked[0]}: ")
    assert package in said[0]
    assert f"pip install 'ssast-lab[{extra}]'" in said[0]
    assert "Traceback" not in ended.stderr
    assert [*tmp_path.iterdir()] == []


def test_figures_in_python_say_what_they_need(tmp_path):
    script = "import ssast_lab\ntry:\n    ssast_lab.figures\nexcept ImportError as error:\n    print(error)\n"
    ended = without(APP, script, tmp_path)
    assert ended.stdout == "This needs the package plotly, which is not installed: pip install 'ssast-lab[app]'\n"


@pytest.mark.parametrize(
    ("package", "script", "said"),
    [
        ("anywidget", "import ssast_lab.widgets", "This needs the package anywidget, which is not installed: pip install 'ssast-lab[notebooks]'"),
        ("ipywidgets", "import ssast_lab.widgets", "This needs the package ipywidgets, which is not installed: pip install 'ssast-lab[notebooks]'"),
        ("umap", "import numpy\nfrom ssast_lab.measuring import points\npoints.lay_out(numpy.eye(30), 'umap')",
         "UMAP needs the package umap-learn: pip install 'ssast-lab[map]', or choose t-SNE."),
    ],
)  # fmt: skip
def test_python_says_what_it_needs(package, script, said, tmp_path):
    ended = without((package,), script, tmp_path)
    assert ended.stderr.splitlines()[-1].partition(": ")[2] == said


def test_notebooks_need_no_app(tmp_path):
    assert without(("gradio", "uvicorn", "fastapi"), "import ssast_lab.widgets", tmp_path).stderr == ""


EXTRAS = (*APP, "uvicorn", "fastapi", "umap", "pyarrow", "onnx", "onnxscript", "onnxruntime", "ipywidgets", "anywidget", "IPython")  # fmt: skip


def test_what_needs_no_extra_works_without_them(sounds, tmp_path):
    """Commands of a plain ``pip install ssast-lab``, one after another; Parquet, pictures and the page are asked for above."""
    sound = str(sounds / "000.flac")
    commands = [
        ["data", "look", str(sounds)],
        ["info", "tiny-patch", "--evaluate", str(sounds), "--counts", "10", "--curves", "curves.csv"],
        ["embed", "tiny-frame", str(sounds), "--out", "all.npz"],
        ["near", "tiny-frame", "all.npz", sound],
        ["predict", "tiny-patch", sound],
        ["export", "tiny-patch", "ours"],
        ["export", "tiny-patch", "theirs", "--to", "transformers"],
        ["completion", "bash"],
    ]
    script = f"from ssast_lab.__main__ import main\nfor asked in {commands!r}:\n    main(asked)\n    print('done')\n"
    ended = without(EXTRAS, script, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("done\n") == len(commands)
    assert "Next: ssast-lab data statistics" in ended.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"all.npz", "curves.csv", "ours", "theirs"}
