"""What every request has to pass: the page answers to its own address, is used from its own origin, and calls nobody."""

import asyncio
import ipaddress
import re
from collections import defaultdict
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]

# Gradio needs inline scripts and styles, and compiles the scripts of its HTML components; pictures and sounds are made in the page.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# Of gradio's own addresses, those that fetch from elsewhere, run what they are sent, or tell of other visitors.
CLOSED = re.compile(
    r"/+(gradio_api/+(proxy=|file=\w{2,}:|file/|dev/|vibe|undo-vibe|run-history|runs\b|process_recording|deep_link)|monitoring\b)",
    re.IGNORECASE,
)
UPLOAD = "/gradio_api/upload"  # of files, which have a limit of their own
MOST = 8 << 20  # bytes of any other request
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds until a password is looked at, after one that was wrong and after many
VISITORS = 10_000  # whose wrong passwords are remembered at once


class Gate:
    """Wraps an ASGI application; ``local`` is whether it serves this machine alone."""

    def __init__(self, app: Any, local: bool) -> None:
        self.app, self.local = app, local
        self.wrong: dict[str, int] = defaultdict(int)  # passwords in a row, by the visitor's address
        self.turn: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        refused = self.refusal(scope)
        if refused:
            from starlette.responses import JSONResponse

            status, sentence = refused
            await _heard_out(receive)
            await JSONResponse({"detail": sentence}, status)(scope, receive, guarded)
        elif scope["method"] == "POST" and scope["path"].rstrip("/") == "/login":
            await self.log_in(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and sentence for a request that is not let through."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if scope["type"] != "http":
            return 404, "There is nothing here."
        if self.local and not is_loopback(_name(host)):  # a name that leads here from elsewhere
            return 421, "This page answers to localhost only: for another name, start it with --host and a password."
        if (
            origin is not None
            and scope["method"] not in ("GET", "HEAD")
            and _place(origin.partition("://")[2]) != _place(host)
        ):
            return 403, f"This page takes nothing from other pages: it was sent something from {origin[:80]}."
        if CLOSED.match(scope["path"]):
            return 404, "There is nothing here."
        length = headers.get("content-length", "0")
        if not scope["path"].startswith(UPLOAD) and (
            "transfer-encoding" in headers or not length.isdigit() or len(length) > 9 or int(length) > MOST
        ):
            return 413, f"What is no file is sent in one piece of at most {MOST >> 20} MB."
        return None

    async def log_in(self, scope: Scope, receive: Any, send: Any) -> None:
        """One try at a time from each address, and each waits longer than the one before, until one is right."""
        visitor = (scope.get("client") or ("",))[0]

        async def watched(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.wrong[visitor] = 0 if message["status"] < 400 else self.wrong[visitor] + 1
            await send(message)

        async with self.turn[visitor]:
            await asyncio.sleep(min(FIRST_WAIT * (2 ** min(self.wrong[visitor], 10) - 1), LONGEST_WAIT))
            await self.app(scope, receive, watched)
        if len(self.wrong) > VISITORS:
            self.wrong.clear()
            self.turn.clear()


async def _heard_out(receive: Any) -> None:
    """Whoever is still sending would not hear the answer; who sends without end is not to have one."""
    left = 16 * MOST
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            return


def is_loopback(host: str) -> bool:
    """Whether a name or address, without brackets, is always this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() in ("localhost", "localhost.localdomain")


def _name(host: str) -> str:
    """The name or address in a Host header."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _place(netloc: str) -> str:
    """Host and port; before a proxy the scheme may be another than ours, and the port is not named if it is the usual one."""
    return re.sub(r":(80|443)$", "", netloc.lower())
