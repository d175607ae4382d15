"""Volumes as image files in a folder, attached by loop devices: the backend that needs no disk of its own."""

from katacsi.backends.loopfile.backend import LoopfileBackend
from katacsi.backends.loopfile.settings import LoopfileSettings

__all__ = ["LoopfileBackend", "LoopfileSettings"]
