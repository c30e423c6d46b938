"""The view of how much can be hidden: its curves are what the core measures, and a point of them is put on the stage."""

import numpy as np
import torch
from visitor import SHARE, open_tab, shot, stage, until

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.app.reconstruction import PAPER, draw

FULL = "document.querySelector('#view-hiding .hiding-go')?.hidden"


def excerpt_of(name="speech"):
    model = checkpoint.load("tiny-patch")
    return model, analysis.excerpt(audio.load_waveform(audio.builtin_sounds()[name]["path"]), model.config)


def read_out(page, chart, share):
    """What a chart says at a share of its width."""
    svg = page.locator(f"#view-hiding [data-of={chart}] svg")
    svg.evaluate("svg => svg.scrollIntoView({ block: 'end' })")  # the stage covers what is above
    box = svg.bounding_box()
    page.mouse.move(box["x"] + 46 + share * (box["width"] - 56), box["y"] + 60)
    return page.locator(f"#view-hiding [data-of={chart}] output").inner_text()


def test_the_curves_are_those_of_the_core(page):
    model, piece = excerpt_of()
    open_tab(page, "Hiding curve")
    page.wait_for_function(FULL)
    counts = analysis.hiding_counts(piece.grid.count)
    records = list(analysis.hiding_curve(model, piece, [counts[3], counts[7]], (3, 5)))
    for record in records:
        share = record.count / piece.grid.count
        assert f"{record.count}: " in read_out(page, "mse", share)
        assert f"model {record.mse.mean():.3f} ({record.mse.min():.3f} to {record.mse.max():.3f})" in read_out(
            page, "mse", share
        )
        assert f"model {100 * record.accuracy.mean():.0f} %" in read_out(page, "accuracy", share).replace(".0", "")
    assert "visible mean of each mel bin" in page.locator("#view-hiding .view-line").inner_text()
    shot(page, "hiding")
    heads, (record,) = checkpoint.heads("tiny-patch"), list(analysis.hiding_curve(model, piece, [counts[7]], (3, 5)))
    for name in ("kind", "phones"):
        page.get_by_label("Question").select_option(name)
        whole = analysis.predict(model, [heads[name]], piece.fbank)[name]
        held = [
            analysis.predict(model, [heads[name]], piece.fbank, torch.from_numpy(mask))[name][whole.argmax()]
            for mask in record.masks
        ]
        assert heads[name].labels[whole.argmax()] in page.locator("#view-hiding [data-of=class] h4").inner_text()
        said = read_out(page, "class", record.count / piece.grid.count)
        assert f"model {100 * np.mean(held):.0f} %" in said.replace(".0", ""), said


def test_a_point_is_seen_and_heard_on_the_stage(page):
    _, piece = excerpt_of()
    open_tab(page, "Hiding curve")
    page.wait_for_function(FULL)
    count = analysis.hiding_counts(piece.grid.count)[4]
    svg = page.locator("#view-hiding [data-of=mse] svg")
    svg.evaluate("svg => svg.scrollIntoView({ block: 'end' })")  # the stage covers what is above
    box = svg.bounding_box()
    page.mouse.click(box["x"] + 46 + count / piece.grid.count * (box["width"] - 56), box["y"] + 60)
    until(page, f"s.settled && s.picture.hiddenCount() === {count}")
    masks = {tuple(draw(piece.grid, PAPER, count, seed).int().tolist()) for seed in range(5)}
    assert tuple(stage(page, "Array.from(s.picture.mask)")) in masks
    page.locator("#view-hiding [data-seed='2']").click()
    wanted = draw(piece.grid, PAPER, count, 2).int().tolist()
    until(page, f"s.settled && String(Array.from(s.picture.mask)) === '{','.join(map(str, wanted))}'")
    until(page, "s.ready")
    page.locator("#stage canvas").focus()
    page.keyboard.press(" ")
    until(page, "s.playing && s.version === 'reconstructed' && s.time > 0.1")


def test_it_can_be_stopped_and_goes_on_and_leaves_with_its_tab(page, sounds):
    open_tab(page, "Hiding curve")
    page.get_by_role("button", name="10", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_function("!document.querySelector('#view-hiding .view').classList.contains('is-waiting')")
    before = page.locator("#view-hiding progress").get_attribute("value")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    page.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 200))))"
    )
    assert asked == []
    assert page.locator("#view-hiding progress").get_attribute("value") == before
    page.get_by_role("button", name="Go on", exact=True).click()
    page.wait_for_function(FULL)
    page.get_by_label("Cluster factor C").click()  # another kind of mask: measured anew
    page.get_by_role("option", name="random", exact=True).click()
    page.wait_for_function("document.querySelector('#view-hiding .hiding-said').textContent === 'masks: random'")
    until(page, f"s.settled && s.picture.hiddenCount() === {round(SHARE * excerpt_of()[1].grid.count)}")
    assert np.isfinite(float(read_out(page, "nce", 0.5).partition("model ")[2].split()[0]))
