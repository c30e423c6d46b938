"""What axe-core finds on the page: nothing serious, with each tab open, in light and dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from visitor import STATE, until, visit

from ssast_lab.app.views import VIEWS

SERIOUS = ("serious", "critical")
RULES = {
    "options": {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}
}


def serious(page) -> list[str]:
    """Each finding with the first elements that it is about."""
    found = Axe().run(page, **RULES).response["violations"]
    return [
        f"{one['id']}: {one['help']}: " + "; ".join(node["html"][:160] for node in one["nodes"][:3])
        for one in found
        if one["impact"] in SERIOUS
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_found_with_any_tab_open(browser, server, scheme):
    for page in visit(browser, server, color_scheme=scheme):
        until(page, "s.ready")
        assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
        found = {}
        for view in VIEWS:
            page.locator(f"#views [role=tab][aria-controls='tab-{view.name}']").click()
            page.wait_for_function(
                f"document.querySelector('#view-{view.name} .view')?.dataset.shows === {STATE}.picture.data.key"
            )
            page.mouse.move(5, 5)
            found[view.name] = serious(page)
        page.locator("#stage .stage-save summary").click()
        found["menu"] = serious(page)
        page.locator("#stage [data-code]").click()
        page.locator("dialog.stage-code pre").wait_for()
        found["code"] = serious(page)
        assert {where: what for where, what in found.items() if what} == {}
