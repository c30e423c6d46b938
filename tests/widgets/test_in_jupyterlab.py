"""The widgets in JupyterLab in a real browser: what is moved, painted, played and stopped there happens in Python."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

ARTEFACTS = Path(os.environ.get("ARTEFACTS", Path(__file__).parent.parent.parent / "artefacts"))

STATE = "document.querySelector('.ssast-widget .stage').parentElement.stage.state()"


def shot(page, name):
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png")


def stage(page, asked):
    return page.evaluate(f"(s => {asked})({STATE})")


def until(page, condition):
    page.wait_for_function(
        f"document.querySelector('.ssast-widget .stage')?.parentElement.stage && (s => {condition})({STATE})"
    )


def until_file(path, holds, patience=120):
    deadline = time.monotonic() + patience
    while not (path.exists() and holds(path.read_text())):
        assert time.monotonic() < deadline, path.read_text() if path.exists() else f"{path} was not written"
        time.sleep(0.05)


def place(page, patch):
    """Where on the page the middle of a patch lies."""
    return page.evaluate(
        """([state, patch]) => {
            const s = eval(state), { low, high, first, end } = s.picture.bounds(patch), panel = s.panels[0];
            const area = document.querySelector(".ssast-widget canvas").getBoundingClientRect();
            return [area.left + panel.x + ((first + end) / 2 - s.from) / (s.to - s.from) * panel.w,
                    area.top + panel.y + panel.h * (1 - (low + high) / 2 / s.picture.grid.bins)];
        }""", [STATE, patch],
    )  # fmt: skip


EXPLORE = """
from pathlib import Path
from ssast_lab import widgets
shown = widgets.explore("frogs", view="masks")
stage = shown.stage
def kept(change):
    Path("mask.txt").write_text(" ".join(str(int(hidden)) for hidden in stage.mask))
    Path("seen.txt").write_text(f"{stage.pinned} {stage.layer}")
stage.observe(kept, ["mask", "pinned", "layer"])
shown
"""


def test_a_stage_is_moved_painted_and_played(opened):
    page, folder = opened(EXPLORE)
    until(page, "s.picture && s.ready")
    before = stage(page, "s.picture.layer('masked').toDataURL()")
    count = stage(page, "s.picture.hiddenCount()")

    slider = page.locator(".widget-slider .noUi-handle").first
    slider.focus()
    slider.press("ArrowLeft")
    until(page, f"s.picture.hiddenCount() === {count - 1}")
    assert stage(page, "s.picture.layer('masked').toDataURL()") != before
    until_file(folder / "mask.txt", lambda text: text.split().count("1") == count - 1)

    mask = np.array(stage(page, "Array.from(s.picture.mask)"), bool)
    visible = int(np.flatnonzero(~mask)[0])
    page.locator("[data-tool=brush]").click()
    page.mouse.click(*place(page, visible))
    until(page, f"s.settled && s.picture.mask[{visible}] === 1")
    until_file(folder / "mask.txt", lambda text: text.split()[visible] == "1")
    shot(page, "lab_explore")

    page.locator("[data-tool=listen]").click()
    page.mouse.click(*place(page, visible))
    page.locator("[data-layer=error]").click()
    until_file(folder / "seen.txt", lambda text: text == f"{visible} error")

    until(page, "s.ready")
    clock = stage(page, "s.clock")
    page.locator(".stage-play").click()
    until(page, f"s.playing && s.clock > {clock} + 0.2 && s.time > 0.05")
    page.keyboard.press("x")  # a key of the stage's, which would cut the cell
    until(page, "s.tool === 'box'")
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == 1
    assert page.get_by_text("Jupyter news").count() == 0  # the settings of make lab


COMPARE = """
from ssast_lab import widgets
widgets.compare("frogs")
"""
COUNTS = "[...document.querySelectorAll('.ssast-widget > div')].filter(e => e.stage).map(e => e.stage.state().picture?.hiddenCount())"


@pytest.mark.parametrize("cell", [EXPLORE, COMPARE], ids=["explore", "compare"])
def test_a_slider_that_was_clicked_is_moved_by_keys_and_the_pictures_follow(opened, cell):
    page, _ = opened(cell, "1 + 1")
    until(page, "s.picture && s.ready")
    slider = page.locator(".widget-slider").first
    box, begun = slider.locator(".noUi-base").bounding_box(), page.evaluate(COUNTS)
    page.mouse.click(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.wait_for_function(
        f"begun => String({COUNTS}) !== begun && {COUNTS}.every(n => n)", arg=",".join(map(str, begun))
    )
    page.wait_for_function("document.activeElement.matches('.noUi-handle')")
    read = slider.locator(".widget-readout")
    value = int(read.inner_text())
    for key, wanted in (("ArrowLeft", value - 1), ("ArrowLeft", value - 2), ("ArrowRight", value - 1), ("Home", 1)):
        page.keyboard.press(key)
        page.wait_for_function(
            "wanted => document.querySelector('.widget-readout').textContent === wanted", arg=str(wanted)
        )
        patches = page.evaluate(COUNTS.replace("hiddenCount()", "mask.length"))
        counts = [wanted] if cell == EXPLORE else [max(round(wanted / 100 * count), 1) for count in patches]
        page.wait_for_function(f"counts => String({COUNTS}) === counts", arg=",".join(map(str, counts)))
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == 2


def test_python_speaks_to_the_stage(opened):
    page, _ = opened(
        EXPLORE,
        "stage.pinned = 17\nstage.layer = 'masked'\nstage.sound = 'tabla'\nstage.hide(5, None)\nstage.view = 'recognition'",
    )
    until(
        page,
        "s.pinned === -1 && s.layer === 'masked' && s.picture.hiddenCount() === 5 && s.picture.mask.length === 496",
    )
    page.locator(".view-body canvas").first.wait_for()
    shot(page, "lab_recognition")


TRAIN = """
from dataclasses import replace
from pathlib import Path
import ssast_lab
from ssast_lab import widgets
from ssast_lab.config import RunConfig, pretrain_config
recipe = pretrain_config("quick-nano-patch-40-2", train=str(Path(ssast_lab.__file__).parent / "sounds"))
config = replace(recipe, model=replace(recipe.model, frames=64, depth=1, width=32), mask=replace(recipe.mask, count=20),
                 data=replace(recipe.data, held_out_clips=2),
                 training=replace(recipe.training, steps=100_000, warmup=10, evaluate_every=50, evaluate_masks=20))
panel = widgets.Training(config, RunConfig("run", checkpoint_every=100_000, precision="fp32", workers=0))
panel
"""


def test_a_run_is_stopped_and_goes_on(opened):
    page, folder = opened(TRAIN)

    def line(words):
        page.wait_for_function(
            "words => document.querySelector('.training-line')?.textContent.includes(words)", arg=words
        )
        return page.locator(".training-line").inner_text()

    page.locator(".jupyter-button", has_text="Start").click()
    line("clips a second")
    page.locator("img[alt^='A held-out clip']").wait_for()
    page.locator(".jupyter-button", has_text="Stop").click()
    steps = int(line("stopped after").split()[-2])
    assert max(path.name for path in (folder / "run" / "checkpoints").iterdir()) == f"step-{steps:08d}"
    page.locator(".jupyter-button", has_text="Go on").click()
    page.wait_for_function(
        "steps => Number(/^step (\\\\d+)/.exec(document.querySelector('.training-line')?.textContent)?.[1]) > steps".replace(
            "\\\\", "\\"
        ),
        arg=steps,
    )
    shot(page, "lab_training")
    page.locator(".jupyter-button", has_text="Stop").click()
    line("stopped after")
    page.locator(".jupyter-button", has_text="Keep").click()
    line("kept in")
