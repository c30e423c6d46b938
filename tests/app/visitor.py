"""What a visitor of the app does and sees, for its tests.

Screenshots are kept in ``artefacts/`` (or the folder that the environment variable ARTEFACTS names).
"""

import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.app.views import VIEWS
from ssast_lab.config import MaskConfig

ROOT = Path(__file__).parent.parent.parent
ARTEFACTS = Path(os.environ.get("ARTEFACTS", ROOT / "artefacts"))
PATIENCE = int(os.environ.get("PATIENCE", 90_000))  # milliseconds, as other work may keep the machine busy
SHARE = 400 / 512
STATE = "document.querySelector('#stage .stage').parentElement.stage.state()"


def stage(page, asked="s.layer"):
    """What the stage says of itself: ``asked`` is an expression of its state s."""
    return page.evaluate(f"(s => {asked})({STATE})")


def until(page, condition):
    """Waits until a condition of the stage's state s holds."""
    page.wait_for_function(f"document.querySelector('#stage .stage') && (s => {condition})({STATE})")


def layers(page) -> dict[str, str]:
    """The pixels of every layer of the stage, as text."""
    names = ["original", "masked", "reconstructed", "error", "recognised"]
    return {name: stage(page, f"s.picture.layer('{name}').toDataURL()") for name in names}


def place(page, patch, along=0.5, up=0.5) -> tuple[float, float]:
    """Where on the page a point of a patch lies, in the first panel."""
    return tuple(page.evaluate(
        """([state, patch, along, up]) => {
            const s = eval(state), { low, high, first, end } = s.picture.bounds(patch), panel = s.panels[0];
            const area = document.querySelector("#stage canvas").getBoundingClientRect();
            const frame = first + along * (end - first), bin = low + up * (high - low);
            return [area.left + panel.x + (frame - s.from) / (s.to - s.from) * panel.w,
                    area.top + panel.y + panel.h * (1 - bin / s.picture.grid.bins)];
        }""", [STATE, patch, along, up],
    ))  # fmt: skip


def point_at(page, patch):
    page.mouse.move(*place(page, patch))
    until(page, f"s.hover === {patch}")


def questions(page):
    """The list, from now on growing, of what is asked of the server."""
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    return asked


def overlay(page):
    values = stage(page, "s.overlay && Array.from(s.overlay.values, value => Number.isNaN(value) ? null : value)")
    return np.array(values, float)


def visit(browser, server, screen=(1280, 900), **options):
    context = browser.new_context(viewport={"width": screen[0], "height": screen[1]}, **options)
    foreign, errors = [], []

    def gate(route):
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    context.route("**/*", gate)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: said.type == "error" and errors.append(said.text))
    page.goto(server)
    page.locator("#mse").wait_for()
    until(page, "s.picture")
    yield page
    context.close()
    assert foreign == []
    assert errors == []


def shot(page, name):
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    page.screenshot(path=ARTEFACTS / f"{name}.png")


def figures(page) -> dict[str, str]:
    return {key: page.locator(f"#figures #{key}").inner_text() for key in ("mse", "accuracy", "nce", "hidden")}


def expected(models, path, kind="patch", count=None, seed=0, cluster=(3, 5), start=0.0) -> dict[str, str]:
    """What the page has to say, by way of the core alone."""
    model = checkpoint.load(models / f"test-{kind}")
    piece = analysis.excerpt(audio.load_waveform(path), model.config, start)
    count = round(SHARE * piece.grid.count) if count is None else count
    mask = analysis.draw_mask(piece, MaskConfig(count, cluster if kind == "patch" else None), seed)
    record = analysis.reconstruct(model, piece.fbank, mask, start)
    return {
        "mse": f"{record.mse:.3f}\n{record.baseline:.3f} for",
        "accuracy": f"{record.accuracy:.1%}\n{round(record.accuracy * count)} of {count} recognised; "
        f"guessing: {1 / count:.2%}",
        "nce": f"{record.nce:.2f} nats",
        "hidden": f"{count}\nof {piece.grid.count} ",
    }


def agrees(page, wanted: dict[str, str]) -> None:
    """Waits until the page shows these figures."""
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        shown = figures(page)
        if all(text in shown[key] for key, text in wanted.items()):
            return
        assert time.monotonic() < deadline, f"{shown} does not show {wanted}"
        page.wait_for_timeout(50)


def choose(page, kind):
    page.get_by_label(f"Test {kind} model").check()


def upload(page, path):
    page.locator("#upload input[type=file]").set_input_files(path)


def drop(page, path):
    """The file as if dragged from the desktop."""
    data = page.evaluate_handle(
        """([name, text]) => { const data = new DataTransfer(); data.items.add(new File([text], name)); return data; }""",
        [path.name, path.read_text()],
    )
    page.locator("#upload button").dispatch_event("drop", {"dataTransfer": data})


def open_tab(page, title):
    page.get_by_role("tab", name=title, exact=True).click()
    answered(page, next(view.name for view in VIEWS if view.title == title))


def answered(page, name=None):
    """Waits until the open view has its answer for the picture that is shown."""
    page.wait_for_function(
        f"""[...document.querySelectorAll("{f"#view-{name} " if name else ""}.view")].some(view => view.getClientRects().length &&
                !view.classList.contains("is-waiting") && view.dataset.shows === {STATE}.picture.data.key)"""
    )
