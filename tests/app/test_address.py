"""The page's address in a real browser: it follows the controls, shows the same again elsewhere, and says what it cannot."""

from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from started import started
from visitor import STATE, agrees, choose, expected, figures, layers, place, shot, stage, until, upload, visit

from ssast_lab import app, audio, checkpoint
from ssast_lab.app.address import asked_for
from ssast_lab.app.reconstruction import PAPER, SHARE
from ssast_lab.config import model_config
from ssast_lab.model import SSAST


def asked(page) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(page.url).query))


def test_an_address_shows_the_same_view_on_another_machine(browser, server, models):
    """A machine that is another to the server: nothing is shared but the address."""
    frogs = audio.builtin_sounds()["frogs"]["path"]
    for page in visit(browser, server):
        page.get_by_label("Built-in sound").click()
        page.get_by_role("option", name="frogs").click()
        choose(page, "patch")
        agrees(page, expected(models, frogs))
        number = page.get_by_role("spinbutton", name="Hidden patches")
        number.fill("100")
        number.press("Tab")
        agrees(page, expected(models, frogs, count=100))
        page.get_by_label("Cluster factor C").click()
        page.get_by_role("option", name="5", exact=True).click()
        agrees(page, expected(models, frogs, count=100, cluster=(5, 5)))
        page.get_by_role("button", name="Another mask").click()
        agrees(page, expected(models, frogs, count=100, seed=1, cluster=(5, 5)))
        page.wait_for_function("location.search.includes('seed=1')")
        assert asked(page) == {"sound": "frogs", "model": "test-patch", "hidden": "100", "cluster": "5", "seed": "1"}
        address, drawn, chosen = page.url, layers(page), page.get_by_label("Built-in sound").input_value()
    for page in visit(browser, address):
        agrees(page, expected(models, frogs, count=100, seed=1, cluster=(5, 5)))
        until(page, "s.picture.hiddenCount() === 100")
        assert layers(page) == drawn
        assert page.get_by_label("Built-in sound").input_value() == chosen
        assert page.get_by_label("Test patch model").is_checked()
        assert page.url == address
        shot(page, "address")


def test_what_the_address_does_not_name_is_as_ever_and_other_words_stay(browser, server, models):
    for page in visit(browser, server + "?model=test-frame&utm=x&layer=nonsense&version=7&tab=nowhere"):
        first = next(iter(audio.builtin_sounds()))
        agrees(page, expected(models, audio.builtin_sounds()[first]["path"], kind="frame"))
        page.wait_for_function("location.search.includes('hidden=')")
        # what is no tab, layer or version is passed over
        page.wait_for_function("!location.search.includes('nonsense')")
        assert asked(page) | {"hidden": ""} == {
            "sound": first, "model": "test-frame", "utm": "x", "hidden": "", "cluster": "paper", "seed": "0",
        }  # fmt: skip
        assert stage(page, "[s.layer, s.version]") == ["reconstructed"] * 2


@pytest.mark.parametrize(
    "query", [dict(sound="nobody", model="<img src=x onerror=window.hit=1>", hidden="99999", cluster="9", seed="-1")]
)
def test_unknown_values_are_ignored_with_a_sentence(browser, server, models, query):
    for page in visit(browser, f"{server}?{urlencode(query)}"):
        toast = page.locator(".toast-body", has_text="The address asks for what is not here")
        toast.wait_for()
        for key, value in query.items():
            assert f"{key} {value}" in toast.inner_text()
        shot(page, "unknown_address")
        choose(page, "patch")
        first = next(iter(audio.builtin_sounds().values()))
        agrees(page, expected(models, first["path"]))
        assert page.evaluate("window.hit") is None


def test_tab_layer_and_version_come_along(browser, server):
    """A layer that a view lends, too, which is there only once the view has been answered."""
    for page in visit(browser, server):
        page.get_by_role("tab", name="Reconstruction", exact=True).click()
        page.locator("#stage [data-layer='bin mean']").click()
        # nothing more comes that would choose for us
        until(page, "s.ready && s.heard('ceiling') && s.heard('bin mean')")
        page.locator("#stage [data-version=ceiling]").click()
        until(page, "s.version === 'ceiling'")
        page.locator("#stage [data-layer='bin mean']").click()
        page.wait_for_function(
            "['bin+mean', 'ceiling', 'reconstruction'].every((word) => location.search.includes(word))"
        )
        said = asked(page)
        assert [said[key] for key in ("tab", "layer", "version")] == ["reconstruction", "bin mean", "ceiling"]
        address = page.url
    for page in visit(browser, address):
        until(page, "s.layer === 'bin mean' && s.version === 'ceiling' && s.heard('ceiling')")
        assert page.get_by_role("tab", name="Reconstruction", exact=True).get_attribute("aria-selected") == "true"
        page.wait_for_function(f"location.href === {address!r}")
        shot(page, "address_of_a_view")
        page.keyboard.press("1")
        until(page, "s.version === 'original' && s.layer === 'original'")  # it is the visitor's from now on


def test_a_painted_mask_comes_along(browser, server):
    for page in visit(browser, server):
        until(page, "s.picture.grid.rows === 8")
        x, y = place(page, 40)
        page.locator("#stage [data-tool=eraser]").click()
        page.mouse.move(x - 150, y - 40)
        page.mouse.down()
        page.mouse.move(x, y, steps=5)
        page.mouse.up()
        until(page, "s.settled")
        page.wait_for_function("location.search.includes('painted=')")
        address, mask = page.url, stage(page, "Array.from(s.picture.mask)")
        shown = figures(page)
        assert 0 < sum(mask) < 131
    for page in visit(browser, address):
        page.wait_for_function(f"(s => s.settled && String(s.picture.mask) === '{','.join(map(str, mask))}')({STATE})")
        page.wait_for_function(
            "text => document.querySelector('#figures #hidden').innerText === text", arg=shown["hidden"]
        )
        assert figures(page) == shown
        page.get_by_role("button", name="Another mask").click()
        page.wait_for_function("!location.search.includes('painted=')")
    for page in visit(browser, server + "?painted=%00%22nonsense"):
        until(page, "s.ready && s.picture.hiddenCount() === 131")


def test_the_window_comes_along(browser, tmp_path):
    model = SSAST(model_config("nano-patch", depth=1, frames=256))
    checkpoint.save(model, tmp_path / "models" / "brief", {"title": "Brief model"})
    with started(tmp_path / "own", "--models", tmp_path / "models") as app:
        for page in visit(browser, app.address + "?sound=tabla&model=brief&start=3.2"):
            until(page, "s.picture.data.start === 3.2")
            window = page.locator("#window input[type=number]")
            assert (window.input_value(), window.get_attribute("max")) == ("3.2", "7.4")
            window.fill("5")
            window.press("Tab")
            page.wait_for_function("location.search.includes('start=5')")
            until(page, "s.picture.data.start === 5")
        for page in visit(browser, app.address + "?sound=tabla&model=brief&start=99"):
            until(page, "Math.abs(s.picture.data.start - 7.4) < 0.05")  # the last of the sound


def test_a_visitors_own_sound_is_not_in_the_address(browser, server, models, sounds):
    for page in visit(browser, server):
        choose(page, "patch")
        upload(page, sounds["short.flac"])
        agrees(page, expected(models, sounds["short.flac"]))
        page.wait_for_function("!location.search.includes('sound=')")
        assert "short" not in page.url
        assert set(asked(page)) == {"model", "hidden", "cluster", "seed"}


def test_every_address_is_read_as_what_it_is():
    models = app.find_models()
    shown, unknown = asked_for(models, "?sound=frogs&model=tiny-frame&hidden=10&cluster=paper&seed=2147483647")
    assert unknown == {}
    assert {name: shown[name] for name in ("builtin", "model", "blocks", "seed")} == {
        "builtin": "frogs", "model": "tiny-frame", "blocks": PAPER, "seed": 2**31 - 1,
    }  # fmt: skip
    assert asked_for(models, None) == asked_for(models, "?") == asked_for(models, "?tab=x&&=&a") == ({}, {})
    for nonsense in (
        "seed=1e3",
        "seed=٣",
        "seed=2147483648",
        "seed=",
        "hidden=0",
        "hidden=9" + "9" * 5000,
        "sound=../x",
        "seed=nan",
        "start=-1",
        "start=1e2",
        "start=nan",
    ):
        shown, unknown = asked_for(models, nonsense)
        assert shown == {}
        assert set(unknown) <= set(parse_qs(nonsense))
    assert SHARE < 1
