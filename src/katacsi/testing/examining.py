"""Conformance: what the backend brings for `katacsi doctor`, if it brings something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from katacsi.backends.api import Examination, Examined, PoolContext
from katacsi.backends.examination import wrong_with
from katacsi.findings import Harm, Place, Unread, Verdict
from katacsi.testing.kit import ConformanceKit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from katacsi.backends.api import Backend


class _Nowhere:
    """A node of which nothing can be found out."""

    contained = False
    kernel_release = ""
    kernel_modules = Unread("nobody looked")

    def text(self, path: str) -> str | Unread | None:
        return Unread(f"{path}: nobody looked")

    def place(self, path: Path) -> Place | Unread:
        return Unread(f"{path}: nobody looked")


@pytest.mark.asyncio
class ExaminingTests(ConformanceKit):
    """checks, which a backend may leave out."""

    async def test_its_checks_can_be_shown(self, make_backend: Callable[[PoolContext], Backend]) -> None:
        """Each check has an id of its own, says why anybody should care, and works before there is a pool."""
        backend = make_backend(PoolContext("pool", "test.katacsi.io", self.node_id, read_only=True))
        if not isinstance(backend, Examined):
            pytest.skip("the backend brings no checks for `katacsi doctor`")
        checks = tuple(backend.checks())
        assert not wrong_with(checks)
        for check in checks:
            assert check.about
            assert check.why
            assert isinstance(check.harm, Harm)
            async for result in check.judge(Examination((), _Nowhere())):
                assert result.subject
                assert result.fact
                assert result.remedy or result.verdict not in {Verdict.FAILURE, Verdict.WARNING}
