"""Fixtures of the door's tests."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

import pytest

from katacsi import logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.door import Door


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """The services of a local driver that can do everything, its workflows scripted by the test."""
    from support.door import open_door

    async with open_door() as opened:
        yield opened


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    """All that the driver and its libraries write at debug level, as JSON lines."""
    import structlog

    root = logging.getLogger()
    former_handlers, former_level = root.handlers, root.level
    stream = io.StringIO()
    logs.configure("debug", "json", stream=stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers, root.level = former_handlers, former_level
    structlog.reset_defaults()
