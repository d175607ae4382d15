"""What the three ways to publish have in common: the job they are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from katacsi.backends.api import Backend, Device, Volume
    from katacsi.volumes.publish.marks import Published
    from katacsi.volumes.undo import Undo


@dataclass(frozen=True, slots=True)
class Job:
    """One publish, understood and checked."""

    backend: Backend
    volume: Volume
    device: Device
    published: Published
    staging: Path

    @property
    def target(self) -> Path:
        """Where the workload expects the volume."""
        return Path(self.published.path)


class Route(Protocol):
    """One way to publish. `check` refuses before anything is changed; `ensure` may be repeated."""

    def check(self, job: Job) -> None:
        """Refuse what cannot be published this way, with what to change."""

    async def ensure(self, job: Job, undo: Undo) -> None:
        """Bring the publish about, from whatever state a former try has left."""
