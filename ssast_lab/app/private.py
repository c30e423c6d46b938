"""What is one visitor's, under names that nobody else can guess."""

import re
from collections import OrderedDict
from threading import Lock
from typing import Any, Generic, TypeVar

T = TypeVar("T")
NAME = re.compile(r"[0-9a-f]{32}")  # 128 random bits, which the visitor's browser draws and keeps


def is_name(name: object) -> bool:
    return isinstance(name, str) and bool(NAME.fullmatch(name))


class Private(Generic[T]):
    """The last ``most`` things that were kept. Whoever knows the name of one made it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._things: OrderedDict[str, T] = OrderedDict()
        self._lock = Lock()

    def keep(self, name: Any, thing: T) -> list[T]:
        """Under a name that is kept from then on, if it is one; gives what had to be forgotten for it."""
        if not is_name(name):
            return [thing]
        with self._lock:
            before = [self._things.pop(name)] if name in self._things else []
            self._things[name] = thing
            over = len(self._things) - self.most
            return before + [self._things.popitem(last=False)[1] for _ in range(over)]

    def find(self, name: object) -> T | None:
        with self._lock:
            if not isinstance(name, str) or name not in self._things:
                return None
            self._things.move_to_end(name)
            return self._things[name]

    def all(self) -> list[T]:
        with self._lock:
            return [*self._things.values()]
