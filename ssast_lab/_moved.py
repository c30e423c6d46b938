"""Old places of modules that have moved into a wing: importing one warns and gives the module at its new place.

To be removed with the next release.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

WINGS = {
    "checkpoint": ("huggingface",),
    "data": ("corpus", "datasets", "labelled", "tasks"),
    "learning": ("classify", "forecast", "muon", "precision", "pretrain", "run", "training"),
    "measuring": ("bench", "compare", "embedding", "evaluation", "probe", "studies", "upstreams"),
}
PLACES = {f"ssast_lab.{name}": f"ssast_lab.{wing}.{name}" for wing, names in WINGS.items() for name in names}


class Moved(ModuleType):
    """Stands at the old place. It can be called, because ``ssast_lab.pretrain`` is the name of a function now."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks for, such as __path__, is not that of the other module
            raise AttributeError(name)
        return getattr(import_module(PLACES[self.__name__]), name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **named)


class Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in PLACES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} has moved to {PLACES[spec.name]}.", DeprecationWarning, stacklevel=2)
        return Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.meta_path.append(Finder())
