"""How fast the app answers: `PYTHONPATH=tests python tests/app/bench.py` starts it with the built-in models, visits it in headless Chromium, and
writes a table of medians, with the load of the machine beside them."""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from chromium import launch
from playwright.sync_api import Page, sync_playwright
from started import started
from visitor import ROOT, open_tab, until, visit

from ssast_lab import audio

# Waits for something of the stage's state s in the page itself, a look at every frame, and gives the milliseconds since `act` began.
TIMED = """
async ([act, done]) => {
  const state = () => document.querySelector("#stage .stage").parentElement.stage.state();
  const before = state(), key = before.picture?.data.key, begin = performance.now();
  new Function("stage", act)(document.querySelector("#stage .stage").parentElement.stage);
  const holds = new Function("s", "key", `return ${done}`);
  while (!holds(state(), key)) {
    if (performance.now() - begin > 60_000) throw new Error(`after a minute there is still not: ${done}`);
    await new Promise(requestAnimationFrame);
  }
  await new Promise(requestAnimationFrame);
  return performance.now() - begin;
}
"""
MAP = "document.querySelector('#view-map canvas')?.map"
ANOTHER = "s.picture.data.key !== key"
SLIDE = """
const slider = document.querySelector("#count input[type=range]");
slider.value = 60 + (Number(slider.value) + 17) % 60;
slider.dispatchEvent(new Event("input", { bubbles: true }));
"""
BRUSH = """
const mask = Uint8Array.from(stage.state().picture.mask);
const patch = Math.floor(Math.random() * mask.length);
mask[patch] = 1 - mask[patch];
stage.paint(mask);
"""
HOVER = """
const canvas = document.querySelector("#stage canvas"), area = canvas.getBoundingClientRect();
const x = area.left + 60 + Math.random() * (area.width - 120), y = area.top + 20 + Math.random() * (area.height - 60);
canvas.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: x, clientY: y }));
"""
FRAMES = """
async ([selector, seconds]) => {
  const canvas = document.querySelector(selector), area = canvas.getBoundingClientRect();
  const begin = performance.now();
  let frames = 0, now = begin;
  while (now - begin < 1000 * seconds) {
    canvas.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: area.left + 60 + ((now - begin) / 4) % (area.width - 120), clientY: area.top + 100 }));
    now = await new Promise(requestAnimationFrame);
    frames += 1;
  }
  return (1000 * frames) / (now - begin);
}
"""


def timed(page: Page, act: str, done: str, times: int) -> list[float]:
    """Seconds of each of some repetitions."""
    took = []
    for _ in range(times):
        until(page, "s.settled")
        took.append(page.evaluate(TIMED, [act, done]) / 1000)
    return took


def answers(folder: Path) -> float:
    """Seconds from the start of `python app.py` to a page that answers."""
    begin = time.monotonic()
    with started(folder):
        return time.monotonic() - begin


def forget(package: Path) -> None:
    """The compiled files of the package: what a first start has to make again."""
    for compiled in package.rglob("__pycache__"):
        shutil.rmtree(compiled, ignore_errors=True)


def upload(page: Page, path: Path) -> float:
    begin = time.monotonic()
    page.locator("#upload input[type=file]").set_input_files(path)
    page.wait_for_function("(name) => document.querySelector('#caption b')?.textContent === name", arg=path.name)
    until(page, "s.picture.grid.frames > 900")
    took = time.monotonic() - begin
    page.get_by_label("Built-in sound").click()
    page.get_by_role("option", name="frogs").click()
    until(page, "s.picture.grid.frames < 900")
    return took


def in_the_page(page: Page, folder: Path, times: int) -> dict[str, list[float]]:
    tabla = folder / "ten.flac"
    soundfile.write(
        tabla,
        np.resize(soundfile.read(audio.builtin_sounds()["tabla"]["path"])[0], 10 * audio.SAMPLE_RATE),
        audio.SAMPLE_RATE,
    )
    until(page, "s.ready")
    figures = {"upload of a 10 s flac to the first full view": [upload(page, tabla) for _ in range(times)]}
    upload_and_stay(page, tabla)
    figures["slider to redrawn view"] = timed(page, SLIDE, ANOTHER, times)
    figures["brush to redrawn view"] = timed(page, BRUSH, f"s.settled && {ANOTHER}", times)
    figures["reconstructed sound ready to play, from the slider on"] = timed(
        page, SLIDE, f"s.ready && {ANOTHER}", times
    )
    page.get_by_role("tab", name="Attention", exact=True).click()
    until(page, "s.overlay || document.querySelector('#view-attention .view')?.dataset.shows === s.picture.data.key")
    figures["hover on a patch to its attention"] = timed(page, HOVER, "s.hover >= 0 && s.overlay", 5 * times)
    figures["frames a second while hovering"] = [page.evaluate(FRAMES, ["#stage canvas", 2]) for _ in range(3)]
    return figures


def in_the_map(page: Page, folder: Path, window: int, windows: int) -> dict[str, list[float]]:
    """Long sounds in windows of some seconds, from the press of the button to the last dot, and pointed at."""
    wave = audio.load_waveform(audio.builtin_sounds()["frogs"]["path"]).numpy()
    files = [folder / f"{windows}-{number}.flac" for number in range(10)]
    for number, file in enumerate(files):
        piece = np.resize(np.roll(wave, 1000 * number), windows // 10 * window * audio.SAMPLE_RATE)
        soundfile.write(file, piece, audio.SAMPLE_RATE)
    open_tab(page, "Map")
    view = page.locator("#view-map")
    page.wait_for_function(f"{MAP}?.state.data?.state === 'done'")
    view.locator("[name=source]").select_option("files")
    view.locator("input[name=files]").set_input_files(files)
    view.locator("[name=seconds]").select_option(str(window))
    begin = time.monotonic()
    view.get_by_role("button", name="Measure").click()
    page.wait_for_function(f"{MAP}.state.data.state === 'done' && {MAP}.state.many === {windows}", timeout=600_000)
    took = time.monotonic() - begin
    page.locator("#view-map canvas").evaluate("canvas => canvas.scrollIntoView({ block: 'end' })")
    frames = [page.evaluate(FRAMES, ["#view-map canvas", 2]) for _ in range(3)]
    return {
        f"a map of {windows:,} windows of {window} s": [took],
        f"frames a second while hovering over its {windows:,} dots": frames,
    }


def upload_and_stay(page: Page, path: Path) -> None:
    page.locator("#upload input[type=file]").set_input_files(path)
    until(page, "s.picture.grid.frames > 900 && s.ready")


def said(name: str, values: list[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    if "frames" in name:
        return f"| {name} | {middle:.0f} | {low:.0f} to {high:.0f} |"
    if middle >= 1:
        return f"| {name} | {middle:.1f} s | {low:.1f} to {high:.1f} s |"
    return f"| {name} | {1000 * middle:.0f} ms | {1000 * low:.0f} to {1000 * high:.0f} ms |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=9, help="repetitions, of which the median is written")
    times = parser.parse_args().times
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        forget(ROOT / "ssast_lab")
        figures = {"`python app.py` to a page that answers, cold": [answers(folder / "cold")]}
        figures["warm"] = [answers(folder / "warm") for _ in range(3)]
        browser = launch(playwright)
        with started(folder / "app") as app:
            for page in visit(browser, app.address):
                figures |= in_the_page(page, folder, times)
                figures |= in_the_map(page, folder, window=2, windows=600)
                figures |= in_the_map(page, folder, window=1, windows=3000)
        browser.close()
    print(
        f"Load of the machine before and after: {load:.1f} and {os.getloadavg()[0]:.1f}, on {os.cpu_count()} cores.\n"
    )
    print("| what | median | from to |\n| --- | --: | --: |")
    print("\n".join(said(*row) for row in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
