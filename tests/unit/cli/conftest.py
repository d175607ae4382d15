"""What the tests of the command line share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from katacsi.cli.root import katacsi

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result


@pytest.fixture
def run() -> Callable[..., Result]:
    """Call `katacsi` with arguments, as a shell would; no variable of the test run's own is seen."""

    def call(*arguments: object) -> Result:
        environment = {"KATACSI_CONFIG": None, "CSI_ENDPOINT": None, "NODE_ID": None}
        return CliRunner(env=environment).invoke(katacsi, [str(argument) for argument in arguments])

    return call
