"""How fast the widgets answer in JupyterLab: `pytest -s tests/widgets/bench.py` prints a table of medians."""

import statistics
import subprocess
import sys
import time

import pytest
from test_in_jupyterlab import STATE, until

from ssast_lab import audio

TIMES = 15
STAGE = """
from ssast_lab import widgets
shown = widgets.explore("tabla", model="{model}")
shown
"""
ACT = """
async () => {{
  const state = () => {state}, key = state().picture.data.key, begin = performance.now();
  document.querySelector(".widget-slider .noUi-handle").dispatchEvent(new KeyboardEvent("keydown", {{ key: "ArrowLeft", bubbles: true }}));
  while (state().picture.data.key === key) await new Promise(requestAnimationFrame);
  return performance.now() - begin;
}}
"""


@pytest.mark.parametrize("model", ["tiny-patch", "tiny-frame"])
def test_a_slider_moves_its_picture(opened, model):
    page, _ = opened(STAGE.format(model=model))
    until(page, "s.picture && s.ready")
    took = []
    for _ in range(TIMES):
        until(page, "s.ready")
        took.append(page.evaluate(ACT.format(state=STATE)))
    seconds = audio.builtin_sounds()["tabla"]["seconds"]
    print(
        f"\nslider to picture, {model} in the loop, {seconds:.0f} s of sound: median {statistics.median(took):.0f} ms "
        f"({min(took):.0f} to {max(took):.0f})"
    )


@pytest.mark.parametrize(
    "imported", ["from ssast_lab import analysis, audio, checkpoint, figures, masking, widgets", "import ssast_lab"]
)
def test_a_notebook_imports(imported):
    took = []
    for _ in range(5):
        begin = time.monotonic()
        subprocess.run([sys.executable, "-c", imported], check=True)
        took.append(time.monotonic() - begin)
    print(f"\n{imported}: median {statistics.median(took):.2f} s ({min(took):.2f} to {max(took):.2f})")
