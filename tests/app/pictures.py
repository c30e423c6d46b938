"""The pictures of docs/app.md, taken of the running app: `PYTHONPATH=tests python tests/app/pictures.py` writes them into docs/app."""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from chromium import launch
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from started import started
from visitor import ROOT, STATE, place, until, visit

FOLDER = ROOT / "docs" / "app"
LARGEST = 250_000  # bytes


def keep(page: Page, name: str) -> None:
    """In as many colours as fit into the largest file."""
    page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colours in (256, 128, 64, 32):
        buffer = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            break
    (FOLDER / f"{name}.png").write_bytes(buffer.getvalue())
    print(f"{name}.png: {buffer.tell() / 1000:.0f} kB, {colours} colours")


def answered(page: Page, view: str) -> None:
    page.wait_for_function(f"document.querySelector('#view-{view} .view')?.dataset.shows === {STATE}.picture.data.key")
    until(page, "s.ready")


def start(page: Page) -> None:
    for _ in range(3):
        page.locator("#view-start [data-go='1']").click()


def versus(page: Page) -> None:
    page.get_by_text("How surely it holds to its first answer: being computed").wait_for(state="detached")
    page.locator("#view-versus .versus-curve path").first.wait_for()


def point(patch: int) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        page.mouse.click(*place(page, patch))

    return act


def hold(page: Page) -> None:
    page.locator("#stage [data-layer=recognised]").click()
    hidden = page.evaluate(
        f"(s => [...s.picture.mask.keys()].find((patch) => s.picture.mask[patch] && s.picture.rank[patch] === 0))({STATE})"
    )
    page.mouse.click(*place(page, hidden))


def baseline(page: Page) -> None:
    page.locator("#view-reconstruction").get_by_text("Inpainting").first.click()


def hide_more_and_more(page: Page) -> None:
    page.wait_for_function("document.querySelector('#view-hiding .hiding-go')?.hidden")


def measure(page: Page) -> None:
    page.locator("#view-map [data-do=measure]").click()
    page.locator("#view-map [data-window]").first.wait_for()


def train(page: Page) -> None:
    page.locator("#view-train [data-do=start]").click()
    page.locator("#view-train .train-drawn").filter(has_text="MSE").wait_for()
    page.wait_for_timeout(30_000)  # some more of the curves


# name -> what the address asks for, the height of the window, light or dark, and what is done then
PICTURES: dict[str, tuple[dict[str, str], int, str, Callable[[Page], None] | None]] = {
    "stage": (dict(sound="speech", model="tiny-patch"), 800, "light", point(60)),
    "layers": (dict(sound="blackbird", model="tiny-patch", layer="all"), 1000, "light", None),
    "start": (dict(sound="guitar", model="tiny-patch", tab="start"), 1240, "light", start),
    "masks": (dict(sound="guitar", model="tiny-patch"), 1240, "light", None),
    "reconstruction": (dict(sound="speech", model="tiny-patch", tab="reconstruction"), 1240, "light", baseline),
    "recognition": (dict(sound="tabla", model="tiny-patch", tab="recognition"), 1300, "light", hold),
    "attention": (dict(sound="blackbird", model="tiny-patch", tab="attention"), 1300, "light", point(130)),
    "versus": (dict(sound="speech", model="tiny-patch", tab="versus"), 1300, "light", versus),
    "hiding": (dict(sound="speech", model="tiny-patch", tab="hiding"), 1480, "light", hide_more_and_more),
    "map": (dict(sound="tabla", model="tiny-patch", tab="map"), 1300, "light", measure),
    "train": (dict(sound="speech", model="tiny-patch", tab="train"), 1240, "light", train),
    "models": (dict(sound="speech", model="tiny-patch", tab="models"), 1300, "light", None),
    "dark": (dict(sound="frogs", model="tiny-patch", tab="attention"), 900, "dark", point(100)),
}  # fmt: skip


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright, started(Path(folder) / "app") as app:
        browser = launch(playwright)
        for name, (asked, height, scheme, act) in PICTURES.items():
            if names and name not in names:
                continue
            for page in visit(browser, f"{app.address}?{urlencode(asked)}", screen=(1280, height), color_scheme=scheme):
                until(page, "s.ready")
                answered(page, asked.get("tab", "masks"))
                if act:
                    act(page)
                    until(page, "s.settled && s.ready")
                keep(page, name)
        for page in visit(browser, app.address, screen=(390, 844), has_touch=True, is_mobile=True):
            if not names or "phone" in names:
                until(page, "s.ready")
                keep(page, "phone")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
