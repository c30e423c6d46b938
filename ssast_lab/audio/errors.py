"""What is said of a sound that cannot be used, and of one that is not what it seems."""

import os
from typing import Any


class _OfFile(Exception):
    """Something that is said of a file. ``file`` is its path, None for an array or an open file. The message has it quoted;
    :meth:`about` says the same of another name, for who knows the file by one."""

    def __init__(self, message: str, file: Any = None) -> None:
        """``{file}`` in the message stands for the file."""
        self.file = os.fspath(file) if isinstance(file, str | os.PathLike) else None
        self.message = message
        super().__init__(message, self.file)

    def __str__(self) -> str:
        return self.about("The sound" if self.file is None else repr(self.file))

    def about(self, name: str) -> str:
        return self.message.replace("{file}", name)


class AudioError(_OfFile, ValueError):
    """A file or array that is no usable sound: the message says what is wrong, where, and what to do."""


class AudioWarning(_OfFile, UserWarning):
    """A sound that was read, but of which something should be known: it is shorter or longer than its header says, damaged
    places in it were filled with silence, its channels cancel each other, or all of it lies above the model's band.

    ``promised`` and ``found`` are the seconds that its header tells and that it has, None where they agree.
    """

    def __init__(
        self, message: str, file: Any = None, promised: float | None = None, found: float | None = None
    ) -> None:
        super().__init__(message, file)
        self.args = (message, self.file, promised, found)  # with which it is made again after a pickle
        self.promised, self.found = promised, found
