"""Files that are whole or not there."""

import uuid
from contextlib import suppress
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Writes a file aside and renames it, so that nobody ever reads half of it and what was there stays until then.

    Text as UTF-8. The folder is made if need be; OSError, with nothing left behind, where it cannot be written.
    """
    aside = path.with_name(f".writing-{path.name}-{uuid.uuid4().hex[:8]}")  # several processes may write one file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
        aside.replace(path)
    finally:
        with suppress(OSError):  # where nothing can be written, there is nothing to remove
            aside.unlink(missing_ok=True)
