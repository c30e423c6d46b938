"""The notebooks, run from top to bottom, as pages that need no network: `python docs/render.py OUT [NAME...]`, which tells the time
of each and the most memory that its kernel took. They run at full size, or in a few minutes with SSAST_LAB_SMALL=1."""

import os
import re
import sys
import time
from pathlib import Path
from threading import Thread

import nbformat
import psutil
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor

ROOT = Path(__file__).parent.parent
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.S)


def mathml(found: re.Match[str]) -> str:
    """Browsers draw it themselves. Markdown is not to see its stars and lines."""
    block, inline = found.groups()
    drawn = convert(block or inline, display="block" if block else "inline")
    return " ".join(drawn.split()).replace("*", "&#42;").replace("_", "&#95;")


def with_equations(text: str) -> str:
    """A cell of text, with MathML where it has TeX outside of code."""
    return "".join(part if place % 2 else MATH.sub(mathml, part) for place, part in enumerate(CODE.split(text)))


class Watch(Thread):
    """The most memory that any kernel of this process took, in bytes."""

    most, over = 0, False

    def run(self) -> None:
        while not self.over:
            for child in psutil.Process().children(recursive=True):
                try:
                    self.most = max(self.most, child.memory_info().rss)
                except psutil.Error:
                    continue
            time.sleep(0.5)


def page(path: Path, out: Path) -> str:
    notebook = nbformat.read(path, as_version=4)
    runner = ExecutePreprocessor(
        timeout=1800, kernel_name="python3", store_widget_state=False, extra_arguments=["--log-level=ERROR"]
    )
    runner.preprocess(notebook, {"metadata": {"path": str(path.parent)}})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_equations(cell.source)
    html, _ = HTMLExporter(mathjax_url="", require_js_url="", widget_renderer_url="").from_notebook_node(
        notebook, {"metadata": {"name": path.stem}}
    )
    html = re.sub(r'<script src="https://[^"]*"></script>', "", html)
    html = re.sub(r'(href="[^":]*)\.ipynb"', r'\1.html"', html)
    above = os.path.relpath(ROOT, out.resolve())
    return re.sub(r'href="\.\./', f'href="{above}/', html)  # into the checkout


def main(out: str, *names: str) -> None:
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"SSAST_LAB_STILL": "1", "PLOTLY_RENDERER": "notebook"}
    whole = time.monotonic()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        began, watch = time.monotonic(), Watch(daemon=True)
        watch.start()
        (folder / f"{path.stem}.html").write_text(page(path, folder), encoding="utf-8")
        watch.over = True
        print(f"{path.stem}: {time.monotonic() - began:.0f} s, {watch.most / 1e9:.2f} GB", flush=True)
    print(f"in all {time.monotonic() - whole:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
