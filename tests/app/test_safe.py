"""What the page refuses: addresses in the place of files, posts from other pages, names that lead here from elsewhere."""

import json
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from started import ask, listening, multipart, send, started
from visitor import visit

from ssast_lab import audio

JSON = {"Content_Type": "application/json"}


@pytest.fixture(scope="module")
def elsewhere():
    """(address, what was asked of it) of a server that has every file that is asked for."""

    def answer(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write(audio.builtin_sounds()["tabla"]["path"].read_bytes())

    with listening(answer) as (address, asked):
        yield f"{address}/", asked


def call(server, name, *data) -> tuple[str, object]:
    """The last event of a call and what it brought: ("complete", values) or ("error", {"error": sentence})."""
    status, text, _ = ask(f"{server}gradio_api/call/{name}", json.dumps({"data": data}).encode(), **JSON)
    assert status == 200, text
    said = ask(f"{server}gradio_api/call/{name}/{json.loads(text)['event_id']}")[1]
    event, data = said.rstrip("\n").split("\n\n")[-1].split("\n")
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def file_of(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def test_an_address_in_the_place_of_a_file_is_not_fetched(server, elsewhere):
    address, asked = elsewhere
    port = urlsplit(address).port
    for url in (
        address + "a.flac",
        f"http://localhost:{port}/a.flac",
        f"http://sound.localhost:{port}/a.flac",
        "https://hf.co/a",
    ):
        for file in (file_of(url), file_of(url, url=url), file_of("", url=url)):
            event, said = call(server, "reconstruct", file, "frogs", "test-patch", 0.0, 100, "5", 3)
            assert event == "error", said
            assert said["error"].startswith(
                "This page fetches no addresses" if file["path"] else "This is no file that was sent"
            )
        for path in (f"file={url}", f"file={quote(url, safe='')}", f"proxy={url}", f"file/{url}"):
            assert ask(f"{server}gradio_api/{path}")[0] in (403, 404)
    assert asked == []


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "app.py", "../app.py", "/dev/zero", "\0", "x" * 5000, "file:///etc/passwd"]
)
def test_a_file_of_the_server_is_not_taken_for_a_sound(server, path):
    for file in (file_of(path), {"path": path}):
        event, said = call(server, "reconstruct", file, "frogs", "test-patch", 0.0, 100, "5", 3)
        assert event == "error"
        assert said["error"], said
        assert str(Path.cwd()) not in said["error"]
        assert ask(f"{server}gradio_api/file={quote(path)}")[0] in (400, 403, 404)


def test_the_policy_lets_the_pages_own_origin_only(server):
    for path in ("", "config", "gradio_api/file=none", "assets/none.js", "theme.css"):
        policy = ask(server + path)[2]["content-security-policy"]
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == "'self'"
        places = {place for sources in rules.values() for place in sources.split()}
        assert places <= {"'self'", "'none'", "data:", "blob:", "'unsafe-inline'", "'unsafe-eval'"}


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1.evil.example", "http://localhost"])  # fmt: skip
def test_posts_from_another_origin_are_refused(server, origin):
    sound, form = multipart(b"sound")
    for path, data, kind in (("upload", sound, form), ("call/reconstruct", b'{"data": []}', "application/json"), ("queue/join", b"{}", "text/plain")):  # fmt: skip
        status, said, headers = ask(f"{server}gradio_api/{path}", data, Content_Type=kind, Origin=origin)
        assert (status, "takes nothing from other pages" in said) == (403, True)
        assert "access-control-allow-origin" not in headers
    assert send(server, b"sound")[0] == 200  # of a program, which has no origin
    assert ask(f"{server}gradio_api/upload", sound, Content_Type=form, Origin=server.rstrip("/"))[0] == 200


def test_a_name_that_leads_here_from_elsewhere_is_refused(server):
    port = urlsplit(server).port
    for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "", "[", "127.0.0.1.nip.example"):
        assert ask(server, Host=host)[0] == 421 or not host
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "[::1]"):
        assert ask(server, Host=host)[0] == 200


@pytest.mark.parametrize("path", ["monitoring", "monitoring/summary", "gradio_api/vibe-code", "gradio_api/dev/reload", "gradio_api/run-history/buckets"])  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(server, path):
    assert ask(server + path)[0] == 404


def test_what_is_no_file_has_a_limit(server):
    call = f"{server}gradio_api/call/reconstruct"
    for data in (json.dumps({"data": ["x" * (9 << 20)]}).encode(), iter([b'{"data": [', b'"x"' * 100, b"]}"])):
        status, said, _ = ask(call, data, **JSON)
        assert (status, "at most 8 MB" in said) == (413, True)


def test_a_models_note_is_plain_text(browser, models, elsewhere, tmp_path):
    """A note, a title and a name that would fetch a picture or run a script, if they were more than text."""
    from shutil import copytree

    address, asked = elsewhere
    copytree(models, tmp_path / "models")
    config = tmp_path / "models/test-patch/config.json"
    told = json.loads(config.read_text())
    note = f"![x]({address}note.png) <img src={address}html.png onerror=window.hit=1> <script>window.hit=1</script> **bold**"
    told["about"] |= {"note": note, "title": f"Test patch model <img src={address}title.png onerror=window.hit=1>"}
    config.write_text(json.dumps(told))
    with started(tmp_path / "here", "--models", tmp_path / "models") as here:
        for page in visit(browser, here.address):
            page.get_by_label("Test patch model").check()
            page.locator("#note").get_by_text("![x](").wait_for()
            assert page.locator("#note").inner_text().strip() == f"{note} It hears 20 to 8000 Hz."
            assert page.locator("#note img, #note b, #note strong, #model img").count() == 0
            assert page.evaluate("window.hit") is None
    assert asked == []
