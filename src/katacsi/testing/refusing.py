"""What has to be refused, and what it would cost if it were not."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from katacsi.errors import KatacsiError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def refused(otherwise: str, *, by: type[KatacsiError] = KatacsiError) -> Iterator[None]:
    """Expect an error of `katacsi.errors`; what happened otherwise is the failure's message.

    Another exception is no refusal: nobody knows which code it should become.
    """
    try:
        yield
    except by:
        return
    pytest.fail(otherwise)
