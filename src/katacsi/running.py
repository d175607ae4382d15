"""What a process that runs until it is told to stop has: the signal to stop, and pages at addresses."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import structlog

from katacsi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

    from katacsi.httpserver import HttpServer

log = structlog.get_logger(__name__)


def stop_signal() -> asyncio.Event:
    """Give the event that SIGTERM and SIGINT set, from now on."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def start_page(
    name: str, address: str | None, make: Callable[[str, int], Awaitable[HttpServer]], stack: AsyncExitStack
) -> None:
    """Serve a page at the address that the section of that name has, until the stack is left.

    Raises:
        SettingsError: nobody can listen there.
    """
    if address is None:
        return
    host, _, port = address.rpartition(":")
    try:
        page = await make(host.strip("[]"), int(port))
    except (OSError, OverflowError) as error:  # no such port
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{name}.address {address}: cannot be listened on: {reason}") from error
    stack.push_async_callback(page.close)
    log.info(name, port=page.port)
