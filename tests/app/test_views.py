"""The tabs under the stage in a real browser: what they say of a built-in sound is what the core computes, and they and the stage
speak with each other."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from visitor import SHARE, answered, open_tab, overlay, place, point_at, questions, shot, stage, until, upload, visit

from ssast_lab import analysis, audio, checkpoint, masking
from ssast_lab import stage as core_stage
from ssast_lab.app import views
from ssast_lab.app.stage import STATIC
from ssast_lab.app.views import view as core

# --- attention ----------------------------------------------------------------------------------------------------


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
