"""The view of models: what stands on the shelf is read before the visitor's eyes, and the stage can use it."""

import pytest
from visitor import answered, open_tab, shot, stage, until

from ssast_lab import analysis, checkpoint


def look_at(page, name):
    page.locator("#view-models").get_by_role("button", name=name, exact=True).click()
    page.wait_for_function(f"document.querySelector('#view-models h3').textContent === '{name}'")
    answered(page)


def table(page, part):
    view = page.locator("#view-models")
    view.locator(f"[data-part={part}]").click()
    return view.locator(".models-report tr").all_inner_texts()[1:]


def test_what_is_in_use_is_described(page):
    open_tab(page, "Models")
    view = page.locator("#view-models")
    model = checkpoint.load("tiny-patch")
    facts = view.locator(".models-facts").inner_text()
    assert f"{sum(value.numel() for value in model.parameters()):,}" in facts
    assert "16 mel bins x 16 frames" in facts
    assert "12 layers, 192 wide, 3 heads" in facts
    assert len(table(page, "taken")) == len(model.state_dict())
    assert table(page, "left") == []
    mark = analysis.fingerprint(model)
    shown = view.locator(".models-fingerprint").inner_text()
    assert "As its file promises" in shown
    assert all(f"{value:.4f}" in shown for value in mark.figures)
    assert view.locator(".models-curves figure").count() == 3
    held_out = checkpoint.describe("tiny-patch")["about"]["curves"]
    chart = view.locator(".models-curves svg").nth(1)
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 20)
    assert f"{held_out[-1]['mse']:.3f}" in view.locator(".models-curves output").nth(1).inner_text()
    shot(page, "models")
    for name in ("encoder Encoder", "blocks ModuleList", "0 Block", "attention Attention", "qkv Linear"):
        view.locator("summary:visible", has_text=name).first.click()
    assert view.locator("i:visible", has_text="576 × 192").count() == 1


def test_an_official_file_is_read_and_used(page, models):
    open_tab(page, "Models")
    view = page.locator("#view-models")
    name = f"{models.name}/more/official.pth"
    look_at(page, name)
    model, report = checkpoint.load_with_report(models / "more" / "official.pth")
    rows = table(page, "taken")
    assert len(rows) == len(report.taken)
    assert any("v.blocks.0.attn.qkv.weight" in row for row in rows)
    facts = view.locator(".models-facts").inner_text()
    for said in (report.positions, report.features, report.fingerprint[:16]):
        assert said in facts
    assert len(table(page, "left")) == len(report.left) > 0
    assert "promises no figures" in view.locator(".models-fingerprint").inner_text()
    shot(page, "models_official")
    before = stage(page, "s.picture.data.key")
    view.get_by_role("button", name="Use it on the stage").click()
    until(page, f"s.settled && s.picture.data.key !== '{before}'")
    answered(page)
    assert "on the stage now" in view.locator(".models-why").inner_text()
    assert tuple(stage(page, "s.picture.grid.shape")) == model.config.patch
    assert page.get_by_label(name).is_checked()
    page.get_by_label("Tiny patch model").check()  # and back
    page.wait_for_function("document.querySelector('#view-models h3').textContent === 'tiny-patch'")


def test_a_folder_of_transformers_lacks_the_pretext_heads(page, models):
    open_tab(page, "Models")
    look_at(page, f"{models.name}/more/transformers")
    view = page.locator("#view-models")
    assert "encoder alone" in view.locator(".models-facts").inner_text()
    assert any(row.startswith("mask_token") for row in table(page, "missing"))
    assert view.get_by_role("button", name="Use it on the stage").count() == 0
    assert "no pretext heads" in view.locator(".models-why").inner_text()


def test_a_broken_file_gets_a_sentence_without_its_place(page, models):
    open_tab(page, "Models")
    name = f"{models.name}/more/broken.pth"
    look_at(page, name)
    said = page.locator("#view-models .models-trouble").inner_text()
    assert name in said
    assert str(models.parent) not in page.content()
    look_at(page, "tiny-frame")
    assert page.locator("#view-models .models-facts").is_visible()


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "", None, 7, ["tiny-patch"], "scratch:tiny-patch"])
def test_nothing_is_opened_that_is_not_on_the_shelf(name, models):
    from ssast_lab.app.shelf import Shelf
    from ssast_lab.app.sources import find_models
    from ssast_lab.app.state import Common
    from ssast_lab.app.views import models as view
    from ssast_lab.app.views.view import Refusal

    with pytest.raises(Refusal, match="no such model"):
        view.act({"name": name}, Common(find_models(), Shelf([models])))
