"""The four steps in a real browser: each shows on the stage what it says, and a guess is judged."""

import re

from visitor import SHARE, STATE, shot, until

from ssast_lab import analysis, audio, checkpoint


def step(page, number):
    page.locator(f"#view-start [data-step='{number}']").click()
    page.wait_for_function(f"document.querySelector('#view-start [aria-current]').dataset.step === '{number}'")


def open_tab(page):
    page.get_by_role("tab", name="Start here", exact=True).click()
    page.wait_for_function(f"document.querySelector('#view-start .view')?.dataset.shows === {STATE}.picture.data.key")


def test_a_first_visitor_is_led_through_the_task(page):
    open_tab(page)
    until(page, "s.layer === 'original' && s.marks.size === 1")
    says = page.locator("#view-start .start-step > p").first
    assert re.search(r"cut into 168 patches", says.inner_text())
    page.get_by_role("button", name="Next").click()
    until(page, "s.layer === 'masked'")
    assert "131 of 168 patches" in says.inner_text()
    page.get_by_role("button", name="Next").click()
    until(page, "s.overlay !== null")
    page.get_by_role("button", name="Next").click()
    until(page, "s.layer === 'reconstructed' && s.overlay === null")
    shot(page, "start")
    model = checkpoint.load("tiny-patch")
    piece = analysis.excerpt(audio.load_waveform(next(iter(audio.builtin_sounds().values()))["path"]), model.config)
    record = analysis.match(model, piece.fbank, analysis.draw_mask(piece, SHARE))
    true = page.evaluate(f"[...{STATE}.marks.values()].flat().find(patch => patch >= 0)")
    assert record.rank[list(record.patches).index(true)] == 0  # a recognised one is shown
    page.locator(f"#view-start [data-guess]:not([data-guess='{true}'])").first.click()
    verdict = page.locator("#view-start .start-verdict")
    assert verdict.inner_text().startswith("No:")
    page.locator(f"#view-start [data-guess='{true}']").click()
    assert verdict.inner_text().startswith("Right.")
    assert "The model picks the right one, too" in verdict.inner_text()
    page.locator("#view-start .start-on").get_by_role("button", name="what is recognised").click()
    page.wait_for_selector("#view-recognition .match-matrix canvas")
    until(page, "s.layer === 'reconstructed'")


def test_a_step_can_be_heard(page):
    open_tab(page)
    until(page, "s.ready")
    step(page, 1)
    page.get_by_role("button", name="Play what is left").click()
    until(page, "s.playing && s.version === 'masked'")
    until(page, "s.time > 0.2")
