"""Patch against frame in a real browser: the figures are those of the core, and the other model can be seen and heard."""

import pytest
import torch
from visitor import SHARE, STATE, shot, until

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.app import state
from ssast_lab.app.reconstruction import analyse
from ssast_lab.app.sources import find_models
from ssast_lab.app.views import versus
from ssast_lab.app.views.view import Refusal
from ssast_lab.config import model_config
from ssast_lab.model import Classifier
from ssast_lab.patches import unpatchify


def open_tab(page):
    page.get_by_role("tab", name="Patch or frame", exact=True).click()
    page.wait_for_function(f"document.querySelector('#view-versus .view')?.dataset.shows === {STATE}.picture.data.key")


def seen_of(waveform, name="tiny-patch", share=SHARE):
    model = find_models()[name]
    excerpt = analysis.excerpt(waveform, checkpoint.load(name).config)
    return state.Seen("key", model, analyse(excerpt, model, analysis.draw_mask(excerpt, share)))


@pytest.fixture(scope="module")
def first():
    return seen_of(audio.load_waveform(next(iter(audio.builtin_sounds().values()))["path"]))


def test_both_models_are_measured_on_the_same_sound(page, first):
    open_tab(page)
    frame, excerpt = checkpoint.load("tiny-frame"), first.excerpt
    other = analysis.Excerpt(0.0, excerpt.fbank, frame.encoder.grid_of(excerpt.fbank))
    mask = analysis.draw_mask(other, first.record.hidden / excerpt.grid.count)
    for kind, record in {"patch": first.record, "frame": analysis.reconstruct(frame, excerpt.fbank, mask)}.items():
        figures = page.locator(f"#view-versus [data-side={kind}] dt + dd").all_inner_texts()
        assert float(figures[0].split()[0]) == pytest.approx(100 * record.accuracy, abs=0.51)
        assert figures[1] == f"{record.mse:.3f}"
        assert int(figures[2]) == record.hidden
    page.locator("#view-versus").scroll_into_view_if_needed()
    shot(page, "versus")


def test_the_other_model_is_seen_and_heard_on_the_stage(page):
    open_tab(page)
    until(page, "s.ready && s.heard('other')")
    before = page.evaluate(f"{STATE}.picture.layer('reconstructed').toDataURL()")
    page.locator("#view-versus [data-side=frame]").click()
    until(page, "s.layer === 'other' && s.version === 'other'")
    assert page.evaluate(f"{STATE}.picture.layer('other').toDataURL()") != before
    page.locator("#view-versus [data-side=patch]").click()
    until(page, "s.layer === 'reconstructed'")


def test_predictions_are_those_of_the_heads(page, first):
    head = checkpoint.heads("tiny-patch")["kind"]
    told = analysis.predict(checkpoint.load("tiny-patch"), [head], first.excerpt.fbank)["kind"]
    open_tab(page)
    page.locator("#view-versus [data-choose=kind]").click()
    rows = page.locator("#view-versus .versus-told > .versus-answers > div").all()
    shown = {
        row.locator("b").inner_text(): row.locator("output").first.inner_text() for row in rows
    }  # the patch model's
    for label, probability in zip(head.labels, told, strict=True):
        assert float(shown[label].split()[0]) == pytest.approx(100 * probability, abs=0.51)
    page.wait_for_selector("#view-versus .versus-curve circle")
    page.locator("#view-versus .versus-told").scroll_into_view_if_needed()
    shot(page, "versus-heads")


def test_a_classifier_of_ones_own_is_asked(page, models, first):
    open_tab(page)
    folder = models.name
    page.get_by_label("Ask a classifier of yours").select_option(f"{folder}/more/classifier")
    model = checkpoint.load(models / "more" / "classifier")
    fbank = torch.from_numpy(versus.renormalised(first.record.original, first.config, model.config.audio)[:256])
    told = analysis.classify(model, fbank)
    best = int(told.argmax())
    row = page.locator("#view-versus .versus-own .versus-answers > div").first
    row.wait_for()
    assert row.locator("b").inner_text() == model.config.labels[best]
    assert float(row.locator("output").inner_text().split()[0]) == pytest.approx(100 * told[best], abs=0.51)
    assert "of its 3 labels" in page.locator("#view-versus .versus-own > p").inner_text()
    page.locator("#view-versus .versus-own").scroll_into_view_if_needed()
    shot(page, "versus-classifier")
    for name, words in (("transformers", "no labels"), ("broken.pth", "broken.pth")):
        page.get_by_label("Ask a classifier of yours").select_option(f"{folder}/more/{name}")
        page.locator("#view-versus .versus-own > p", has_text=words).wait_for()
    assert str(models.parent) not in page.content()


def test_what_is_hidden_is_hidden_from_a_classifier_too(first):
    torch.manual_seed(2)
    model = Classifier(model_config("nano-patch", depth=1, labels=("a", "b"))).eval()
    fbank, mask = first.excerpt.fbank, first.mask
    other = fbank.clone()
    grid = first.record.grid
    other[unpatchify(mask[None, :, None].expand(-1, -1, grid.values).float(), grid)[0] > 0] = 3.0
    assert analysis.classify(model, fbank, mask) == pytest.approx(analysis.classify(model, other, mask), abs=1e-6)
    assert analysis.classify(model, fbank) != pytest.approx(analysis.classify(model, other), abs=1e-3)
    nothing = analysis.classify(model, fbank, torch.zeros_like(mask))
    assert nothing == pytest.approx(analysis.classify(model, fbank), abs=1e-6)
    with torch.no_grad():
        assert analysis.classify(model, fbank) == pytest.approx(model(fbank[None])[0].softmax(-1).numpy(), abs=1e-6)


def test_a_sound_too_short_for_the_other_model_gets_a_sentence():
    torch.manual_seed(0)
    short = seen_of(0.1 * torch.randn(1200), "tiny-frame", 0.5)
    with pytest.raises(Refusal, match="too short"):
        versus.look(short, {}, state.Common({}), 0)


def test_frames_that_make_no_whole_patch_are_left_to_the_one_that_sees_them():
    torch.manual_seed(0)
    seen = seen_of(0.1 * torch.randn(16_000), "tiny-frame", 0.5)  # 98 frames: 49 pairs, 6 columns of patches
    answer = versus.look(seen, {}, state.Common({}), 3)
    assert answer["models"]["patch"]["patches"] == 8 * 6
    assert answer["models"]["frame"]["patches"] == 49
    later = versus.later(seen, {}, 3)
    assert len(later["shares"]) == len(versus.SHARES)
    assert later["sound"]["samples"]


def test_nothing_hidden_is_nothing_to_compare(first):
    nothing = state.Seen("key", first.model, analyse(first.excerpt, first.model, torch.zeros_like(first.mask)))
    with pytest.raises(Refusal, match="hide some"):
        versus.look(nothing, {}, state.Common({}), 0)
    assert versus.later(nothing, {}, 0) == {}
