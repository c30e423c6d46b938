"""Atomic file writes, strict JSON, checksums, and names that can be printed."""

import hashlib
import json
import math
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any


def write(path: Path, content: str | bytes) -> None:
    """Atomic write: into a temporary file that is then renamed, so that a reader finds the old content or the new, never half.

    Text is written as UTF-8, and the folder is made if it is missing. OSError, with nothing left behind, where that fails.
    """
    aside = path.with_name(f".writing-{path.name}-{uuid.uuid4().hex[:8]}")  # several processes may write one file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
        aside.replace(path)
    finally:
        with suppress(OSError):  # where nothing can be written, there is nothing to remove
            aside.unlink(missing_ok=True)


def to_json(value: Any, **options: Any) -> str:
    """Strict JSON, with the options of :func:`json.dumps`: Python's own writes NaN and Infinity, which others refuse to read. Here a
    number that is not finite is null."""
    return json.dumps(_without_nan(value), allow_nan=False, **options)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(*parts: Any) -> str:
    """Hexadecimal SHA-256 of the parts, one after the other: bytes and buffers as they are, anything else as JSON with
    sorted keys."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes | memoryview) else json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def in_utf8(name: str) -> str:
    """A file's name as others can read it in a table: bytes that are no UTF-8 as an escape, all else as it is."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(name: str) -> str:
    """A name on one line in valid UTF-8: what is not to be seen, or is no UTF-8, as an escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in name
    )
