"""Nothing leaves this machine: neither the server nor its page asks anything of another one, whatever is done."""

import json

import pytest
from started import ask, listening, send, started
from test_safe import call, file_of
from visitor import PATIENCE, agrees, choose, expected, until, upload

from ssast_lab import audio

# Of every process that is started below it: where it listens, connects to, sends to, and which names it looks up.
WATCH = """
import os, sys
def watch(event, values):
    if event in ("socket.bind", "socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        where = values[0] if event.endswith(("addrinfo", "byname")) else values[1]
        where = where[0] if isinstance(where, tuple) else where
        line = f"{event} {where!r}\\n".encode()
        file = os.open(os.environ["WATCHED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line)
        os.close(file)
sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def proxy():
    """(address, what was asked of it) of the only way out for whoever uses it, which leads nowhere."""
    with listening(lambda request: request.send_error(502)) as way_out:
        yield way_out


def test_neither_server_nor_page_calls_out(browser, models, sounds, tmp_path, proxy):
    out, asked = proxy
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    watched = tmp_path / "watched"
    ways = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), out)
    with started(
        tmp_path / "here",
        "--models",
        models,
        PYTHONPATH=str(tmp_path / "watch"),
        WATCHED=str(watched),
        NO_PROXY="",
        **ways,
    ) as here:
        context = browser.new_context(proxy={"server": out, "bypass": "127.0.0.1"})
        page, trouble = context.new_page(), []
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: said.type == "error" and trouble.append(said.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(here.address)
        page.locator("#mse").wait_for()
        choose(page, "patch")
        upload(page, sounds["ten.flac"])
        agrees(page, expected(models, sounds["ten.flac"]))
        until(page, "s.ready")
        page.get_by_role("button", name="Another mask").click()
        agrees(page, expected(models, sounds["ten.flac"], seed=1))
        outcome = page.evaluate("fetch('http://192.0.2.1/x').then(() => 'reached', (error) => String(error))")
        assert "Failed to fetch" in outcome  # the policy keeps the page's scripts from it
        assert any("192.0.2.1" in said for said in trouble)  # as the console says
        assert [said for said in trouble if "192.0.2.1" not in said] == []
        context.close()
        path = json.loads(send(here.address, audio.builtin_sounds()["frogs"]["path"].read_bytes())[1])[0]
        assert (
            call(here.address, "reconstruct", file_of(path), "frogs", "test-patch", 0.0, 100, "5", 3)[0] == "complete"
        )
        for url in ("http://192.0.2.1/a.flac", "https://hf.co/a.flac", "http://nobody.invalid/a.flac"):
            assert (
                call(here.address, "reconstruct", file_of(url), "frogs", "test-patch", 0.0, 100, "5", 3)[0] == "error"
            )
            ask(f"{here.address}gradio_api/file={url}")
            ask(f"{here.address}gradio_api/proxy={url}")
    assert set(asked) <= {
        "CONNECT content-autofill.googleapis.com:443"
    }  # which Chromium asks on its own, of any page with fields
    events = watched.read_text().splitlines()
    assert "socket.bind '127.0.0.1'" in events  # it was watched
    assert {event for event in events if "'127.0.0.1'" not in event} == set()
