"""The lines of Python that the page shows run as they stand, in a process of their own, and give the page's figures."""

import os
import re
import shutil
import subprocess
import sys

from visitor import ROOT, agrees, choose, expected, figures, shot, stage, until, upload

from ssast_lab import audio
from ssast_lab.app.views import VIEWS


def lines(page) -> str:
    """What the menu's entry shows."""
    page.locator("#stage .stage-save summary").click()
    page.locator("#stage [data-code]").click()
    shown = page.locator("dialog.stage-code pre")
    shown.wait_for()
    text = shown.text_content()
    page.keyboard.press("Escape")
    page.locator("dialog.stage-code").wait_for(state="detached")
    return text


def agree(page, text, folder) -> str:
    """Runs the lines in a folder, compares what they say with the page, and gives it back."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, text + done.stderr
    mse, accuracy, hidden, nce = re.match(
        r"MSE ([\d.]+), accuracy ([\d.]+%) of (\d+) hidden patches, InfoNCE ([\d.]+)", done.stdout
    ).groups()
    shown = figures(page)
    assert f"{mse}\n" in shown["mse"]
    assert f"{accuracy}\n" in shown["accuracy"]
    assert f"{hidden}\n" in shown["hidden"]
    assert f"{nce} nats" in shown["nce"]
    return done.stdout


def test_every_tab_has_lines_that_run_and_agree(page, models):
    choose(page, "patch")
    agrees(page, expected(models, next(iter(audio.builtin_sounds().values()))["path"]))
    said = {}
    for view in VIEWS:
        page.locator(f"#views [role=tab][aria-controls='tab-{view.name}']").click()
        text = lines(page)
        assert text.endswith(view.code.lstrip().replace("SEED", "0")[-60:])
        said[view.name] = agree(page, text, models)
    assert len(set(said.values())) == len(VIEWS)  # each tells something of its own
    baselines = re.findall(r"MSE ([\d.]+) of the bin mean", said["reconstruction"])
    assert f"{baselines[0]} for filling in" in figures(page)["mse"]


def test_a_painted_mask_of_ones_own_sound_and_the_published_algorithm(page, models, sounds, tmp_path):
    for name in ("test-patch", "test-frame"):
        (tmp_path / name).symlink_to(models / name)
    named = tmp_path / "a ‘quoted’ bird.flac"
    shutil.copy(sounds["short.flac"], named)
    choose(page, "patch")
    upload(page, named)
    agrees(page, expected(models, named))
    page.evaluate(
        "document.querySelector('#stage .stage').parentElement.stage.paint(new Uint8Array(144).fill(1, 10, 60))"
    )
    until(page, "s.settled && s.picture.hiddenCount() === 50")
    page.wait_for_function("document.querySelector('#figures #hidden dd').innerText === '50'")
    text = lines(page)
    assert named.name in text
    assert "mask[[" in text
    agree(page, text, tmp_path)

    page.get_by_label("Cluster factor C").click()
    page.get_by_role("option", name="official code").click()
    until(page, "s.picture.mask.slice(10, 60).some((value) => !value)")
    text = lines(page)
    assert "official_mask(excerpt.grid, 50" in text
    agree(page, text, tmp_path)

    page.locator("#stage [data-do=clear]").click()
    page.get_by_text("Nothing is hidden, so the model has nothing to draw").wait_for()
    text = lines(page)
    assert "reconstruct" not in text
    compile(text, "shown", "exec")


def test_the_lines_are_copied(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#stage .stage-save summary").click()
    page.locator("#stage [data-code]").click()
    page.locator("dialog.stage-code pre").wait_for()
    shot(page, "code")
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("dialog.stage-code pre").text_content()
    page.get_by_role("button", name="Close").click()
    page.locator("dialog.stage-code").wait_for(state="detached")
    assert stage(page, "s.version") == "reconstructed"
