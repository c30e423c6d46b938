"""The tabs under the stage in a real browser: what they say of a built-in sound is what the core computes, and they and the stage
speak with each other."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from visitor import SHARE, STATE, answered, open_tab, place, shot, stage, until, upload, visit

from ssast_lab import analysis, audio, checkpoint, masking
from ssast_lab.app import stage as core_stage
from ssast_lab.app import views
from ssast_lab.app.stage import STATIC
from ssast_lab.app.views import view as core


@pytest.fixture(scope="module")
def shown():
    """Model, excerpt and mask that every visitor sees at first."""
    model = checkpoint.load("tiny-patch")
    piece = analysis.excerpt(audio.load_waveform(next(iter(audio.builtin_sounds().values()))["path"]), model.config)
    return model, piece, analysis.draw_mask(piece, SHARE)


def point_at(page, patch):
    page.mouse.move(*place(page, patch))
    until(page, f"s.hover === {patch}")


def listen(page):
    """Keeps in the page's ``heard`` which patches are played from now on: number, whether it plays, and the time."""
    page.evaluate(
        f"""() => {{ window.heard = []; document.addEventListener("ssast:play", ({{ detail }}) =>
                heard.push([detail.patch, {STATE}.playing, {STATE}.time])); }}"""
    )


def questions(page):
    """The list, from now on growing, of what is asked of the server."""
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    return asked


# --- attention ----------------------------------------------------------------------------------------------------


def overlay(page):
    values = stage(page, "s.overlay && Array.from(s.overlay.values, value => Number.isNaN(value) ? null : value)")
    return np.array(values, float)


def brightness(weights):
    return weights / np.sort(weights)[-3]


def test_attention_follows_the_pointer(page, shown):
    model, piece, mask = shown
    record = analysis.attend(model, piece.fbank, mask)
    open_tab(page, "Attention")
    until(page, "s.ready")
    asked = questions(page)
    mean = record.among_patches(11)
    np.testing.assert_allclose(overlay(page), brightness(mean.mean(0)), atol=0.02)  # as long as nothing is pointed at
    for patch in (0, 40, 100, 167):
        point_at(page, patch)
        np.testing.assert_allclose(overlay(page), brightness(mean[patch]), atol=0.02)
        chips = page.locator("#view-attention .view-chips b").all_inner_texts()
        assert int(chips[0]) == mean[patch].argmax()
    page.get_by_role("button", name="Who looks at it").click()
    page.mouse.click(*place(page, 40))
    until(page, "s.pinned === 40")
    np.testing.assert_allclose(overlay(page), brightness(mean[:, 40]), atol=0.02)
    page.locator("#view-attention [data-head='1']").click()
    np.testing.assert_allclose(overlay(page), brightness(record.among_patches(11, 1)[:, 40]), atol=0.02)
    point_at(page, 7)  # what is pinned stays
    np.testing.assert_allclose(overlay(page), brightness(record.among_patches(11, 1)[:, 40]), atol=0.02)
    assert asked == []
    shot(page, "attention")


def test_attention_of_other_layers_of_all_and_without_the_mask(page, shown):
    model, piece, mask = shown
    open_tab(page, "Attention")
    page.mouse.click(*place(page, 60))
    until(page, "s.pinned === 60")

    def shows(wanted):
        page.wait_for_function(
            "([state, wanted]) => (s => s.overlay && s.overlay.values.every((value, i) => Math.abs(value - wanted[i]) < 0.02))(eval(state))",
            arg=["document.querySelector('#stage .stage').parentElement.stage.state()", brightness(wanted).tolist()],
        )

    record = analysis.attend(model, piece.fbank, mask)
    page.locator("#view-attention select").select_option("1")
    shows(record.among_patches(1)[60])
    seconds, bins = (distances[1, 2] for distances in record.distances())
    words = page.locator("#view-attention [data-head='2']").inner_text()
    assert f"{seconds:.2f} s, {bins:.0f} bins away" in words
    page.locator("#view-attention select").select_option("rollout")
    shows(record.rollout()[2:, 2:][60])
    page.get_by_role("button", name="Nothing hidden").click()
    shows(analysis.attend(model, piece.fbank).rollout()[2:, 2:][60])
    before = stage(page, "s.picture.data.key")
    page.get_by_role("button", name="Another mask").click()  # which changes nothing where nothing is hidden
    until(page, f"s.picture.data.key !== '{before}'")
    answered(page)
    shows(analysis.attend(model, piece.fbank).rollout()[2:, 2:][60])


# --- patches and masks --------------------------------------------------------------------------------------------


def test_masks_are_counted_as_in_the_core(page, shown):
    _, piece, mask = shown
    count = int(mask.sum())
    rates = {
        name: masking.coverage(draw(torch.Generator().manual_seed(0)), piece.grid).rate.ravel()
        for name, draw in {
            "clusters": lambda g: masking.cluster_mask(piece.grid, count, generator=g, batch=1000),
            "random": lambda g: masking.random_mask(piece.grid, count, generator=g, batch=1000),
            "the official code": lambda g: masking.official_mask(piece.grid, count, generator=g, batch=1000),
        }.items()
    }
    open_tab(page, "Patches and masks")
    until(page, "s.ready")
    asked = questions(page)
    for patch in (0, 20, 100, 167):
        point_at(page, patch)
        said = page.locator("#view-masks .view-line").inner_text()
        for name, rate in rates.items():
            share = re.search(rf"([\d.]+) % of the masks \({name}\)", said)
            assert float(share[1]) == pytest.approx(100 * rate[patch], abs=0.51)
    page.locator("#view-masks [data-map='2']").hover(position={"x": 2, "y": 90})  # the official code's lowest band
    until(page, "s.pointed === 0")
    assert "Patch 0 " in page.locator("#view-masks .view-line").inner_text()
    page.locator("#view-masks [data-lay='2']").click()
    wanted = np.clip(0.5 + (rates["the official code"] - count / len(mask)) / 0.5, -2, 2)
    np.testing.assert_allclose(overlay(page), wanted, atol=1e-4)
    assert asked == []
    shot(page, "masks")


def test_an_example_is_put_on_the_stage_and_taken_back(page, shown):
    _, piece, mask = shown
    open_tab(page, "Patches and masks")
    page.locator("#view-masks [data-example='2 1']").click()
    wanted = masking.official_mask(piece.grid, int(mask.sum()), generator=torch.Generator().manual_seed(1))
    until(page, f"s.settled && String(Array.from(s.picture.mask)) === '{','.join(map(str, wanted.int().tolist()))}'")
    answered(page)
    page.get_by_role("button", name="Undo").click()
    until(page, f"s.settled && String(Array.from(s.picture.mask)) === '{','.join(map(str, mask.int().tolist()))}'")


def test_the_stage_takes_masks_of_the_official_code(page, models, sounds):
    upload(page, sounds["ten.flac"])
    piece = analysis.excerpt(audio.load_waveform(sounds["ten.flac"]), checkpoint.load("tiny-patch").config)
    until(page, f"s.picture.mask.length === {piece.grid.count}")
    page.get_by_label("Cluster factor C").click()
    page.get_by_role("option", name="official code").click()
    wanted = masking.official_mask(
        piece.grid, round(SHARE * piece.grid.count), generator=torch.Generator().manual_seed(0)
    )
    until(page, f"s.settled && String(Array.from(s.picture.mask)) === '{','.join(map(str, wanted.int().tolist()))}'")
    open_tab(page, "Patches and masks")
    assert "in use" in page.locator("#view-masks section", has_text="Official code").locator("h4").inner_text()


def test_the_other_grid_is_counted_too(page):
    open_tab(page, "Patches and masks")
    page.get_by_role("button", name="Frames", exact=True).click()
    page.locator("#view-masks .masks-kinds.is-alone").wait_for()
    assert "of 168 frames" in page.locator("#view-masks .view-line").inner_text()
    shot(page, "masks_frames")


# --- reconstruction -----------------------------------------------------------------------------------------------


def test_baselines_are_seen_and_heard_on_the_stage(page, shown):
    model, piece, mask = shown
    record = analysis.reconstruct(model, piece.fbank, mask)
    baselines = analysis.baselines(record)
    open_tab(page, "Reconstruction")
    view = page.locator("#view-reconstruction")
    assert view.locator("output").all_inner_texts() == [f"{one.mse:.3f}" for one in (record, *baselines)]
    best = [(record.patch_mse < baseline.patch_mse)[mask.numpy()].mean() for baseline in baselines]
    for share in best:
        assert f"{100 * share:.0f} % of the hidden patches better" in view.locator(".view-line").inner_text()
    for baseline in baselines:
        drawn = stage(page, f"Array.from(s.picture.levels['{baseline.name}'])")
        wanted = base64.b64decode(core_stage.levels(record, baseline.drawn, model.config.audio))
        assert drawn == list(wanted)
    until(page, "s.ready && s.guests.every(guest => s.heard(guest.name))")
    sounds = audio.invert(torch.from_numpy(np.stack([baseline.drawn for baseline in baselines])), model.config.audio)
    for number, wave in enumerate(sounds.numpy()):
        sent = np.array(
            stage(page, f"Array.from(s.guests[{number}].sound.samples, v => v * s.guests[{number}].sound.scale)")
        )
        np.testing.assert_allclose(sent, wave, atol=np.abs(wave).max() / 20000)

    patch = int(np.flatnonzero(mask)[30])
    page.mouse.click(*place(page, patch))
    until(page, f"s.pinned === {patch}")
    before = stage(page, "s.time")
    assert before > 0
    view.get_by_role("button", name="Inpainting").first.click()  # at the same place
    assert stage(page, "[s.version, s.layer, s.time]") == ["linear inpainting", "linear inpainting", before]
    shot(page, "reconstruction")
    page.keyboard.press("5")
    until(page, "s.version === 'bin mean' && s.layer === 'bin mean'")
    assert view.get_by_role("button", name="Bin mean").first.get_attribute("aria-pressed") == "true"
    page.locator("#stage canvas").focus()
    page.keyboard.press(" ")
    until(page, f"s.playing && s.time > {before}")
    said = view.locator(".match-pictures button").all_inner_texts()
    for words, value in zip(said[1:], (record, *baselines), strict=True):
        assert f"{value.patch_mse[patch]:.3f}" in words

    open_tab(page, "Attention")
    until(
        page,
        "s.guests.length === 0 && s.layer === 'reconstructed' && s.version === 'reconstructed' && !s.heard('bin mean')",
    )


def test_baselines_follow_the_mask(page, shown):
    model, piece, mask = shown
    open_tab(page, "Reconstruction")
    page.locator("#view-reconstruction").get_by_role("button", name="Bin mean").first.click()
    until(page, "s.layer === 'bin mean'")
    page.get_by_role("button", name="Hide the rest").click()
    until(page, "s.settled")
    answered(page)
    record = analysis.reconstruct(model, piece.fbank, ~mask)
    (baseline, _), config = analysis.baselines(record), model.config.audio
    wanted = list(base64.b64decode(core_stage.levels(record, baseline.drawn, config)))
    page.wait_for_function(
        "([state, wanted]) => (s => s.layer === 'bin mean' && s.picture.levels['bin mean'].every((v, i) => v === wanted[i]))(eval(state))",
        arg=["document.querySelector('#stage .stage').parentElement.stage.state()", wanted],
    )


# --- recognition --------------------------------------------------------------------------------------------------


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


# --- visitors and tabs --------------------------------------------------------------------------------------------


def test_two_visitors_see_each_their_own(browser, server):
    model, names = checkpoint.load("tiny-patch"), ("frogs", "blackbird")
    pages = [visit(browser, server) for _ in names]
    visitors = [next(page) for page in pages]
    for page, name in zip(visitors, names):
        page.get_by_label("Built-in sound").click()
        page.get_by_role("option", name=audio.builtin_sounds()[name]["title"]).click()
    for page, name in zip(visitors, names):
        page.locator("#caption b", has_text=audio.builtin_sounds()[name]["title"]).wait_for()
        page.get_by_role("tab", name="Attention", exact=True).click()
    for page, name in zip(visitors, names):
        piece = analysis.excerpt(audio.load_waveform(audio.builtin_sounds()[name]["path"]), model.config)
        record = analysis.attend(model, piece.fbank, analysis.draw_mask(piece, SHARE))
        until(
            page,
            f"s.picture.mask.length === {piece.grid.count} && s.overlay && s.overlay.values.length === {piece.grid.count}",
        )
        answered(page)
        point_at(page, 50)
        np.testing.assert_allclose(overlay(page), brightness(record.among_patches(11)[50]), atol=0.02)
    for page in pages:
        next(page, None)


def test_only_the_open_tab_is_asked_for_and_a_left_one_leaves_nothing(page):
    open_tab(page, "Recognition")
    until(page, "s.ready && s.overlay")
    asked = []
    page.on("request", lambda request: asked.append(request.post_data or "") if "queue/join" in request.url else None)
    before = stage(page, "s.picture.data.key")
    page.get_by_role("button", name="Another mask").click()
    until(page, f"s.picture.data.key !== '{before}'")
    answered(page)
    until(page, "s.ready")
    assert sum('"ticket"' in body for body in asked) == 1
    page.locator("#view-recognition .match-matrix canvas").hover(position={"x": 50, "y": 100})
    until(page, "[...s.marks.values()].flat().length === 1")
    open_tab(page, "Patches and masks")
    until(page, "s.marks.size === 0 && !s.overlay")
    asked.clear()
    page.get_by_role("tab", name="Recognition", exact=True).click()  # the same picture: nothing new to ask
    until(page, "s.overlay")
    assert not any('"ticket"' in body for body in asked)


# --- the contract -------------------------------------------------------------------------------------------------


def test_scripts_and_views_belong_together():
    names = [view.name for view in views.VIEWS]
    assert len(set(names)) == len(names)
    for view in views.VIEWS:
        script = (STATIC / f"{view.name}.js").read_text(encoding="utf-8")
        assert re.search(rf'ssast\.view\("{view.name}"', script)
        assert view.hint.endswith(".")


@pytest.mark.parametrize(
    "asked", [None, [], {}, {"layer": 99, "hidden": "no"}, {"layer": -1}, {"layer": {"a": 1}}, {"layer": True}]
)
def test_what_is_asked_may_be_anything(seen, common, asked):
    for view in views.VIEWS:
        inputs = [{"blocks": "random", "seed": None}[name] for name in view.inputs]
        answer = core.answered(view, seen, asked, 3, inputs, common)
        assert answer["ticket"] == 3
        assert "refused" not in answer
        json.dumps(answer, allow_nan=False)


def test_a_forgotten_sound_gets_a_sentence():
    for view in views.VIEWS:
        assert "choose one again" in core.answered(view, None, {}, 1)["refused"]


@pytest.fixture
def common():
    from ssast_lab.app.sources import find_models
    from ssast_lab.app.state import Common

    common = Common(find_models())
    yield common
    common.close()


@pytest.fixture
def seen(shown):
    from ssast_lab.app.sources import find_models
    from ssast_lab.app.state import Seen

    model, piece, mask = shown
    return Seen("key", find_models()["tiny-patch"], analysis.reconstruct(model, piece.fbank, mask))
