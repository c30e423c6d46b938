"""The tabs under the stage in a real browser: what they say of a built-in sound is what the core computes, and they and the stage
speak with each other."""

import json
import re

import numpy as np
import pytest
from visitor import SHARE, place, shot, stage, until

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.app import views
from ssast_lab.app.stage import STATIC
from ssast_lab.app.views import view as core


def open_tab(page, title):
    page.get_by_role("tab", name=title, exact=True).click()
    answered(page)


def answered(page):
    """Waits until the open view has its answer for the picture that is shown."""
    page.wait_for_function(
        """[...document.querySelectorAll(".view")].some(view => view.getClientRects().length &&
               !view.classList.contains("is-waiting") && view.querySelector(".view-body").childElementCount)"""
    )


@pytest.fixture(scope="module")
def shown():
    """Model, excerpt and mask that every visitor sees at first."""
    model = checkpoint.load("tiny-patch")
    piece = analysis.excerpt(audio.load_waveform(next(iter(audio.builtin_sounds().values()))["path"]), model.config)
    return model, piece, analysis.draw_mask(piece, SHARE)


def point_at(page, patch):
    page.mouse.move(*place(page, patch))
    until(page, f"s.hover === {patch}")


def questions(page):
    """The list, from now on growing, of what is asked of the server."""
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    return asked


# --- attention ----------------------------------------------------------------------------------------------------


def overlay(page):
    return np.array(stage(page, "s.overlay && Array.from(s.overlay.values)"))


def brightness(weights):
    return weights / np.sort(weights)[-3]


def test_attention_follows_the_pointer(page, shown):
    model, piece, mask = shown
    record = analysis.attend(model, piece.fbank, mask)
    open_tab(page, "Attention")
    until(page, "s.ready")
    asked = questions(page)
    mean = record.among_patches(11)
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
    page.get_by_role("button", name="Another mask").click()  # which changes nothing where nothing is hidden
    answered(page)
    shows(analysis.attend(model, piece.fbank).rollout()[2:, 2:][60])


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
def test_what_is_asked_may_be_anything(seen, asked):
    for view in views.VIEWS:
        answer = core.answered(view, seen, asked, 3, ["random"] * len(view.inputs))
        assert answer["ticket"] == 3
        assert "refused" not in answer
        json.dumps(answer, allow_nan=False)


def test_a_forgotten_sound_gets_a_sentence():
    for view in views.VIEWS:
        assert "choose one again" in core.answered(view, None, {}, 1)["refused"]


@pytest.fixture
def seen(shown):
    from ssast_lab.app.sources import find_models
    from ssast_lab.app.state import Seen

    model, piece, mask = shown
    return Seen("key", find_models()["tiny-patch"], analysis.reconstruct(model, piece.fbank, mask))
