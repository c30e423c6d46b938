"""What is one visitor's, under names that nobody else can guess."""

import secrets
from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Private(Generic[T]):
    """The last ``most`` things that were kept. Whoever knows a thing's name was told it, for it is drawn at random."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._things: OrderedDict[str, T] = OrderedDict()
        self._lock = Lock()

    def keep(self, thing: T) -> str:
        """The name under which it is found again; the thing that was asked for longest ago is forgotten for it."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._things[name] = thing
            while len(self._things) > self.most:
                self._things.popitem(last=False)
        return name

    def find(self, name: object) -> T | None:
        with self._lock:
            if not isinstance(name, str) or name not in self._things:
                return None
            self._things.move_to_end(name)
            return self._things[name]

    def forget(self, name: str) -> T | None:
        with self._lock:
            return self._things.pop(name, None)
