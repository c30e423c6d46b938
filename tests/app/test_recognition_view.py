"""The view of what each hidden patch is taken for, in a real browser: its figures are the core's, and it lights up and plays what it
names."""

import numpy as np
import pytest
from visitor import STATE, open_tab, overlay, point_at, questions, shot, stage, until

from ssast_lab import analysis


def listen(page):
    """Keeps in the page's ``heard`` which patches are played from now on: number, whether it plays, and the time."""
    page.evaluate(
        f"""() => {{ window.heard = []; document.addEventListener("ssast:play", ({{ detail }}) =>
                heard.push([detail.patch, {STATE}.playing, {STATE}.time])); }}"""
    )


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def likeness(record, mask, row):
    """What the stage shows of a row of probabilities: NaN where a patch is visible."""
    values = np.full(len(mask), np.nan)
    values[record.patches] = np.sqrt(row / row.max())
    return values


def test_recognition_says_what_each_hidden_patch_is_taken_for(page, shown):
    model, piece, mask = shown
    record = analysis.match(model, piece.fbank, mask)
    open_tab(page, "Recognition")
    until(page, "s.ready")
    asked, count = questions(page), len(record.patches)
    view = page.locator("#view-recognition")
    assert f"{(record.rank == 0).sum()} of {count} recognised" in view.locator(".view-line").inner_text()
    shares = [int(words.split()[-1]) for words in view.locator("[data-group]").all_inner_texts()]
    edges = [0, 1, 2, 5, 10, 20, 50, count]
    assert shares == np.histogram(record.rank, edges)[0].tolist()
    ranks = np.full(len(mask), np.nan)
    ranks[record.patches] = 1 - np.log1p(record.rank) / np.log(count)
    np.testing.assert_allclose(overlay(page), ranks, atol=1e-5)

    for number in (3, 60, count - 1):
        point_at(page, int(record.patches[number]))
        wanted = likeness(record, mask, softmax(record.scores)[number])
        np.testing.assert_allclose(overlay(page), wanted, atol=1e-4)
        pictured = [int(words) for words in view.locator(".match-pictures > :last-child b").all_inner_texts()]
        assert pictured == record.taken_for[number].tolist()
        place = record.rank[number] + 1
        assert ("recognised" if place == 1 else f"place {place} of {count}") in view.locator(".match-fate").inner_text()
    point_at(page, int(np.flatnonzero(~mask)[0]))
    assert "Point at a hidden patch" in view.locator(".match-fate").inner_text()
    np.testing.assert_allclose(overlay(page), ranks, atol=1e-5)

    page.get_by_role("button", name="Patch among predictions").click()
    right = (record.rank_among_predictions == 0).sum()
    assert f"{right} of {count} recognised" in view.locator(".view-line").inner_text()
    point_at(page, int(record.patches[60]))
    wanted = likeness(record, mask, softmax(record.scores.T)[60])
    np.testing.assert_allclose(overlay(page), wanted, atol=1e-4)
    assert asked == []


@pytest.mark.parametrize("order", ["By band", "By time"])
def test_a_row_of_the_matrix_lights_both_patches_up_and_plays_them(page, shown, order):
    model, piece, mask = shown
    record = analysis.match(model, piece.fbank, mask)
    open_tab(page, "Recognition")
    until(page, "s.ready")
    page.get_by_role("button", name=order).click()
    row = int(np.flatnonzero(record.rank > 0)[7])
    place = row
    if order == "By time":
        columns, rows = record.patches % piece.grid.columns, record.patches // piece.grid.columns
        place = np.lexsort((rows, columns)).tolist().index(row)
    listen(page)
    matrix = page.locator(".match-matrix canvas")
    matrix.scroll_into_view_if_needed()
    area = matrix.bounding_box()
    page.mouse.move(area["x"] + 1, area["y"] + (place + 0.5) / len(record.patches) * area["height"])
    until(page, f"Number.isNaN(s.overlay.values[0]) === {str(not mask[0]).lower()}")
    shot(page, f"recognition_{order[3:]}")
    page.mouse.down()
    page.mouse.up()
    patch, other = int(record.patches[row]), int(record.taken_for[row, 0])
    until(page, f"s.pinned === {patch}")
    assert stage(page, "[...s.marks.values()].flat()") == [other]
    page.wait_for_function("heard.length === 2")
    assert [one[0] for one in page.evaluate("heard")] == [patch, other]
    for heard, playing, time in page.evaluate("heard"):
        begin, end = piece.grid.seconds(heard)
        assert playing
        assert begin - 0.001 <= time <= end + 0.001
    until(page, "!s.playing")


def test_the_surest_are_shown_until_one_is_pointed_at(page, shown):
    model, piece, mask = shown
    record = analysis.match(model, piece.fbank, mask)
    open_tab(page, "Recognition")
    until(page, "s.ready")
    likeliest = softmax(record.scores).max(1)
    named = page.locator("#view-recognition .match-surest b").all_inner_texts()
    for chosen, found in ((record.rank == 0, named[:3]), (record.rank > 0, named[3:])):
        rows = np.flatnonzero(chosen)[np.argsort(-likeliest[chosen])][:3]
        assert found == [f"{record.patches[row]} as {record.taken_for[row, 0]}" for row in rows]
    listen(page)
    page.locator("#view-recognition [data-hold]").last.click()
    patch, other = map(int, named[-1].split(" as "))
    page.wait_for_function("heard.length === 2")
    assert [one[0] for one in page.evaluate("heard")] == [patch, other]
    until(page, f"s.pinned === {patch}")


def test_nothing_hidden_is_said_and_not_shown(page):
    open_tab(page, "Recognition")
    page.get_by_role("button", name="Clear", exact=True).click()
    page.locator("#view-recognition .view-refused", has_text="Nothing is hidden").wait_for()
    until(page, "s.settled && !s.overlay")
    page.get_by_role("button", name="Another mask").click()
    page.locator("#view-recognition .match-matrix").wait_for()
    until(page, "s.overlay")
