"""Taking back, in reverse order, what a call has done before it failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi.errors import KatacsiError
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

log = structlog.get_logger(__name__)


class Undo:
    """Inside `async with`, remembers how to take each host step back, and does so if the block fails.

    A step that cannot be taken back is logged; the error that started it all is what the caller sees, and
    the caller's retry or its opposite call (unpublish after publish) finds the rest.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, what: str, step: Callable[[], object]) -> None:
        """Remember how to take the next step back; call it before the step, since a step may half succeed.

        `step` is a host step: a plain function that blocks.
        """
        self._steps.append((what, step))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        for what, step in reversed(self._steps):
            try:
                await off_loop(step)
            except KatacsiError as left:
                log.warning("could not be taken back", step=what, error=left.message)
