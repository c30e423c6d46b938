"""How the app starts and ends: a sentence where it cannot, a password for other machines, and no file left behind."""

import contextlib
import json
import os
import signal
import socket
import tempfile
import time
import urllib.parse

import pytest
from gradio_client import Client
from started import ask, send, started
from visitor import PATIENCE, shot

from ssast_lab import audio
from ssast_lab.app import main, serve


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.endswith(".\n")
    return said


@contextlib.contextmanager
def taken():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        yield busy.getsockname()[1]


def test_a_busy_port_gets_a_sentence(capsys):
    with taken() as port:
        assert f"--port {port} is in use" in refused(capsys, "--port", str(port))


@pytest.mark.parametrize("port", ["-1", "65536", "99999999999"])
def test_an_impossible_port_gets_a_sentence(capsys, port):
    assert f"--port {port} is no port" in refused(capsys, f"--port={port}")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may use every port")
def test_a_port_of_the_system_gets_a_sentence(capsys):
    assert "--port 1 is not for you" in refused(capsys, "--port", "1")


@pytest.mark.parametrize(
    ("host", "said"),
    [("203.0.113.7", "no address of this machine"), ("nobody.invalid", "no address that is known"), ("a" * 70 + ".b", "known"),
     ("", "known"), ("1.2.3.4.5", "known")],
)  # fmt: skip
def test_a_foreign_host_gets_a_sentence(capsys, host, said):
    assert said in refused(capsys, "--host", host, "--password", "x")


def test_the_next_free_port_is_taken_where_none_was_asked_for():
    with serve.listen("127.0.0.1", None, None) as one, serve.listen("127.0.0.1", None, None) as other:
        ports = [listening.getsockname()[1] for listening in (one, other)]
    assert serve.PORT <= ports[0] < ports[1] < serve.PORT + serve.PORTS


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_need_a_password(capsys, host):
    assert "choose a password" in refused(capsys, "--host", host)


def test_a_password_comes_from_a_file_or_the_environment(capsys, monkeypatch, tmp_path):
    def password(*arguments):
        return serve.password_of(serve.parser_of().parse_args(arguments))

    assert password() is None
    monkeypatch.setenv(serve.PASSWORD, "of the environment")
    assert password() == "of the environment"
    assert serve.PASSWORD not in os.environ  # of the processes that are started from here
    (tmp_path / "password").write_text("ö of a file\r\nsecond line\n", encoding="utf-8")
    assert password("--password-file", str(tmp_path / "password")) == "ö of a file"
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, said in (
        ("empty", "has no password"),
        ("binary", "it is no text"),
        ("missing", "No such file"),
        (".", "directory"),
    ):
        assert said in refused(capsys, "--password-file", str(tmp_path / name))


def test_only_the_password_opens_the_page_and_wrong_ones_slow_down(tmp_path):
    (tmp_path / "password").write_text("open sesame\n")

    def log_in(address, password):
        data = urllib.parse.urlencode({"username": "anybody", "password": password}).encode()
        return ask(address + "login", data)

    with started(tmp_path / "here", "--host", "0.0.0.0", "--password-file", tmp_path / "password") as here:
        for path in ("config", "gradio_api/info", "gradio_api/file=x"):
            assert ask(here.address + path)[0] == 401
        assert (
            ask(here.address + "gradio_api/call/reconstruct", b'{"data": []}', Content_Type="application/json")[0]
            == 401
        )
        assert send(here.address, b"sound")[0] == 401
        begun = time.monotonic()
        for wrong in ("", "open", "open sesame ", "öpen \udcff".encode(errors="surrogateescape")):
            assert log_in(here.address, wrong)[0] in (400, 422)
        assert time.monotonic() - begun >= 0.5 + 1.5 + 3.5 - 0.1  # what the second to the fourth had to wait
        status, _, headers = log_in(here.address, "open sesame")
        assert status == 200
        cookie = headers["set-cookie"].split(";")[0]
        assert ask(here.address + "config", Cookie=cookie)[0] == 200
    assert "sesame" not in here.log.read_text()
    assert "Traceback" not in here.log.read_text()


def test_the_password_of_the_environment_is_asked_here_too(tmp_path):
    with started(tmp_path / "here", SSAST_LAB_PASSWORD="x") as here:
        assert ask(here.address + "config")[0] == 401


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_it_serves_the_sixth_version_too(tmp_path):
    with started(tmp_path / "here", "--host", "::1") as here:
        assert here.address.startswith("http://[::1]:")
        assert json.loads(ask(here.address + "config")[1])["title"] == "SSAST Lab"


def kept(folder):
    return sorted(path for path in folder.iterdir() if not path.name.startswith("log-"))


@pytest.mark.skipif(os.name != "posix", reason="files are locked in another way there")
def test_no_file_is_left_behind_by_a_server_that_ends_or_after_one_that_was_killed(tmp_path):
    sound = audio.builtin_sounds()["tabla"]["path"].read_bytes()
    folder = tmp_path / "here"
    with started(folder, ends=signal.SIGKILL) as here:
        assert send(here.address, sound)[0] == 200
    (dead,) = kept(folder)
    assert any(path.is_file() and path.read_bytes() == sound for path in dead.rglob("*"))
    with started(folder, ends=signal.SIGTERM) as one:
        (alive,) = kept(folder)
        assert alive != dead
        assert send(one.address, sound)[0] == 200
        with started(folder, ends=signal.SIGINT) as two:
            assert send(two.address, sound)[0] == 200
            assert len(kept(folder)) == 2
            assert alive in kept(folder)
            # nothing of another server
            assert any(path.is_file() and path.read_bytes() == sound for path in alive.rglob("*"))
        assert kept(folder) == [alive]
    assert kept(folder) == []
    assert "Traceback" not in two.log.read_text()


def test_no_room_for_files_gets_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(SystemExit) as ended:
        main(["--port", "0"])
    assert str(ended.value.code).startswith("There is no room")


def test_a_visitor_and_a_program_log_in(browser, tmp_path):
    with started(tmp_path / "here", SSAST_LAB_PASSWORD="öpen sesame") as here:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(here.address + "?sound=frogs")
        for password in ("wrong", "öpen sesame"):
            page.get_by_label("username").fill("anybody")
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            if password == "wrong":
                page.get_by_text("Incorrect Credentials").wait_for()
                shot(page, "login")
        page.locator("#mse").wait_for()
        page.wait_for_function("location.search.includes('sound=frogs')")
        page.close()
        client = Client(here.address, auth=("anybody", "öpen sesame"), verbose=False, analytics_enabled=False)
        assert len(client.predict(draws=2, api_name="/masks")["masks"]) == 2
    assert "Traceback" not in here.log.read_text()
