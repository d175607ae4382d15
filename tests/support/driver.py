"""A real driver on a scratch folder: the process that operators run."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katacsi.testing.process import ServeProcess

if TYPE_CHECKING:
    from types import TracebackType


class Driver(ServeProcess):
    """`katacsi serve`; use it with `with`. Records and marks lie below /run: on tmpfs, as in production."""

    def __init__(
        self, scratch: Path, settings: dict[str, Any] | None = None, pool: dict[str, Any] | None = None
    ) -> None:
        self.scratch = scratch
        super().__init__(
            scratch,
            run=Path(tempfile.mkdtemp(prefix="katacsi-test-", dir="/run")),
            settings={"driver_name": "test.katacsi.io", **(settings or {})},
            pool=pool,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            subprocess.run(["rm", "-rf", "--one-file-system", self.run], check=True)
