"""The server: who may see the page, and what stays on this machine."""

import argparse
import errno
import hmac
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr

from ssast_lab.app import received, streams
from ssast_lab.app.gate import Gate, is_loopback
from ssast_lab.app.page import build
from ssast_lab.app.shelf import Shelf
from ssast_lab.app.sources import find_models
from ssast_lab.app.stage import STATIC, head
from ssast_lab.app.state import Common
from ssast_lab.app.temporary import own_folder

VISITORS = 64  # whose sounds are remembered at once
PORT = 7860  # or the next free one of as many as PORTS
PORTS = 100
PASSWORD = "SSAST_LAB_PASSWORD"  # the environment's variable


def serve(page: "gr.Blocks", listening: socket.socket, local: bool, password: str | None) -> None:
    """Serves the page until interrupted, to nobody but who is allowed to see it, and sends nothing anywhere."""
    import uvicorn

    parent, page_app = application(page, password)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            page_app.stop_event.set()  # or the open pages would keep it waiting
            await super().shutdown(sockets)

    config = uvicorn.Config(
        Gate(parent, local),
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=2,
    )
    Server(config).run(sockets=[listening])


def application(page: "gr.Blocks", password: str | None) -> tuple[Any, Any]:
    """The page as an ASGI application, and gradio's own within it."""
    import fastapi
    import gradio as gr

    def right(user: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="surrogatepass"), (password or "").encode())

    received.guard()
    page.queue(max_size=64, default_concurrency_limit=4)
    streams.hold(page._queue)
    page.state_session_capacity = VISITORS
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="gray", radius_size="sm", spacing_size="sm", text_size="md", font=fonts,
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    )  # fmt: skip
    parent = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), page, "/", ssr_mode=False, max_file_size=f"{received.LARGEST}mb",
        run_history=False, enable_monitoring=False, show_error=False, allowed_paths=[], footer_links=[], theme=theme,
        css_paths=STATIC / "app.css", head=head(), auth=right if password else None, pwa=False, mcp_server=False,
    )  # fmt: skip
    page.has_launched = True  # or files would not be looked at before they are used
    return parent, parent.routes[-1].app  # type: ignore[attr-defined]


class ServeError(ValueError):
    """What was asked for cannot be served: the message says why, and what to ask for."""


def listen(host: str, port: int | None, password: str | None) -> socket.socket:
    """A socket at an address of this machine and at a port, or else the first free one from the usual one on.

    Whoever listens to other machines needs a password. :class:`ServeError` for whatever cannot be.
    """
    try:
        family, *_, (name, _, *scope) = socket.getaddrinfo(
            host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ServeError(f"--host {host} is no address that is known here: name one of this machine's.") from None
    if not is_loopback(str(name)) and not password:
        raise ServeError(
            f"--host {host} lets other machines in: choose a password as well, in --password-file or the environment's {PASSWORD}."
        )
    if port is not None and not 0 <= port < 1 << 16:
        raise ServeError(f"--port {port} is no port: choose one from 1024 to 65535.")
    both = name == "::" and socket.has_dualstack_ipv6()
    for number in [port] if port is not None else range(PORT, PORT + PORTS):
        try:
            return socket.create_server((name, number, *scope), family=family, backlog=2048, dualstack_ipv6=both)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ServeError(f"--host {host} is no address of this machine: name one of its own.") from None
            if error.errno == errno.EACCES:
                raise ServeError(f"--port {number} is not for you to use: choose one from 1024 to 65535.") from None
            if error.errno != errno.EADDRINUSE:
                raise ServeError(f"--host {host} cannot be used ({error.strerror}).") from None
    if port is not None:
        raise ServeError(f"--port {port} is in use: choose another one, or none to be given the next free one.")
    raise ServeError(f"The ports from {PORT} to {PORT + PORTS - 1} are all in use: choose another --port.")


def main(arguments: Sequence[str] | None = None, name: str = "app.py") -> None:
    parser = parser_of(name)
    options = parser.parse_args(arguments)
    try:
        password = password_of(options)
        for folder in options.models:
            if not folder.is_dir():
                raise ServeError(f"--models {folder} is no folder.")
        listening = listen(options.host.strip("[]"), options.port, password)
    except ServeError as error:
        parser.error(str(error))
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # after nohup it is ignored, and stays so
            signal.signal(number, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt), listening, own_folder() as folder:
            os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder)}
            host, port = listening.getsockname()[:2]
            with closing(Common(find_models(options.models), Shelf(options.models))) as common:
                page = build(common)
                print(f"SSAST Lab is at {address(host, port)} (Ctrl-C ends it)", flush=True)
                serve(page, listening, is_loopback(host), password)
    except OSError as error:
        sys.exit(f"There is no room for the files of this page: {error}.")


def parser_of(name: str = "app.py") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=f"SSAST Lab: masked spectrogram models on your own sounds, in a page on http://127.0.0.1:{PORT}, for this machine "
        "alone.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="another address than this machine's needs a password")
    parser.add_argument("--port", type=int, metavar="N",
                        help=f"{PORT} or the next free one, where none is named; 0: any free one")  # fmt: skip

    parser.add_argument("--password", help="asked of every visitor, with any user name; other users of this machine can see it "
                        f"here, but not in --password-file or the environment's {PASSWORD}")  # fmt: skip
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is the password")
    parser.add_argument("--models", type=Path, action="append", default=[], metavar="DIR",
                        help="a checkpoint folder, or a folder of them; may be given again")  # fmt: skip
    return parser


def password_of(options: argparse.Namespace) -> str | None:
    """The password that was chosen, wherever it was; it does not stay in the environment."""
    password = os.environ.pop(PASSWORD, None)
    if options.password_file is not None:
        try:
            password = options.password_file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ServeError(f"--password-file {options.password_file} cannot be read ({reason}).") from None
        if not password:
            raise ServeError(f"--password-file {options.password_file} has no password in its first line.")
    return options.password or password or None


def address(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    everywhere = ipaddress.ip_address(host).is_unspecified
    return f"http://{'localhost' if everywhere else f'[{host}]' if ':' in host else host}:{port}/"
