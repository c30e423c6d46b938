"""The app in processes of their own, for tests of how it starts, answers and ends."""

import contextlib
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from visitor import PATIENCE, ROOT


@dataclass(frozen=True)
class App:
    """An app that answers."""

    address: str
    process: subprocess.Popen
    log: Path  # of what it says


@contextlib.contextmanager
def started(folder, *arguments, ends=signal.SIGTERM, **environment):
    """An app whose temporary files are below ``folder``; it ends by a signal."""
    folder.mkdir(exist_ok=True)
    log = folder / f"log-{time.monotonic_ns()}"
    command = [sys.executable, "app.py", "--port", "0", *map(str, arguments)]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=out, env=os.environ | {"TMPDIR": str(folder)} | environment
        )
    try:
        yield App(answering(process, log), process, log)
    finally:
        process.send_signal(ends)
        process.wait(PATIENCE / 1000)


def answering(process, log) -> str:
    """The address, once it answers."""
    deadline = time.monotonic() + PATIENCE / 1000
    while process.poll() is None and time.monotonic() < deadline:
        said = re.search(r"SSAST Lab is at (http://\S+/)", log.read_text())
        if said:
            with contextlib.suppress(OSError):
                if ask(said[1])[0] == 200:
                    return said[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def ask(address, data=None, **headers) -> tuple[int, str, dict[str, str]]:
    """(status, text, headers by their names in lower case) of an answer."""
    request = urllib.request.Request(address, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE / 1000) as answer:
            return (
                answer.status,
                answer.read().decode(errors="replace"),
                {name.lower(): value for name, value in answer.headers.items()},
            )
    except urllib.error.HTTPError as error:
        return (
            error.code,
            error.read().decode(errors="replace"),
            {name.lower(): value for name, value in error.headers.items()},
        )


def multipart(content, name="sound.flac") -> tuple[bytes, str]:
    """A file as a browser sends it, and its content type."""
    head = (
        f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: audio/flac\r\n\r\n'
    )
    return head.encode() + content + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def send(address, content, name="sound.flac") -> tuple[int, str, dict[str, str]]:
    """Uploads a file as the page does."""
    data, kind = multipart(content, name)
    return ask(f"{address}gradio_api/upload", data, Content_Type=kind)


@contextlib.contextmanager
def listening(answer):
    """The address of a server on this machine, and the list, growing, of what is asked of it; ``answer`` is given each request."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(f"{self.command} {self.path}")
            answer(self)

        do_CONNECT = do_POST = do_HEAD = do_OPTIONS = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
