"""Where the host steps of a workflow run: in one thread, or from the event loop one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from katacsi.backends.api import runs_in_one_thread
from katacsi.host.offloop import in_one_thread

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from katacsi.backends.api import Backend

T = TypeVar("T")


async def host_steps(backend: Backend, steps: Coroutine[Any, Any, T]) -> T:
    """Run what a workflow does to a volume: in one thread where its backend allows that.

    The caller holds the volume's lock. What all volumes share (`PublishState`, the metrics) is safe among
    threads; what needs the event loop is preceded by `on_loop`.
    """
    return await (in_one_thread(steps) if runs_in_one_thread(backend) else steps)
