"""Modules without content in the place of real ones, while a library is imported that only names them.

What a node process imports is what every node's memory carries, and libraries bring more than is needed.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextmanager
def standing_in(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Have modules stand for those of their names that nobody has imported yet.

    They are taken away at the end: who imports one of these names later gets the real module.
    """
    put = [module.__name__ for module in modules if sys.modules.setdefault(module.__name__, module) is module]
    try:
        yield
    finally:
        for name in put:
            del sys.modules[name]


def module(name: str, *classes: str) -> ModuleType:
    """Give a module that has nothing but empty classes of these names."""
    made = ModuleType(name)
    for each in classes:
        setattr(made, each, type(each, (), {}))
    return made


def anything(name: str) -> ModuleType:
    """Give a module that has an empty class of every name that it is asked for."""
    made = ModuleType(name)
    made.__getattr__ = lambda each: type(each, (), {})  # type: ignore[method-assign]  # as a module would define it
    return made


def package(name: str, folder: str) -> ModuleType:
    """Give a package whose modules are found in a folder, and whose own code is not run."""
    made = ModuleType(name)
    made.__path__ = [folder]
    return made
