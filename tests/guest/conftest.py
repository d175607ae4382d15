"""The guest of this tier, booted once for all of its tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from guest import Guest, Share, Unavailable
from support import kata_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
    from pathlib import Path

BOOTED_IN = pytest.StashKey[float]()
SECONDS = pytest.StashKey[dict[str, dict[str, float]]]()


@pytest.fixture(scope="session")
def shared_folder(scratch_root: Path) -> Path:
    """The folder that the guest has at /run/shares/sandbox."""
    folder = scratch_root / "shared"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def guest(shared_folder: Path, pytestconfig: pytest.Config) -> Iterator[Guest]:
    """A running guest; a test gives back what it plugs and mounts."""
    machine = Guest(shares={"sandbox": Share(shared_folder)})
    try:
        machine.__enter__()
    except Unavailable as reason:
        pytest.skip(f"no guest: {reason}")
    try:
        pytestconfig.stash[BOOTED_IN] = machine.boot_seconds
        yield machine
    finally:
        machine.__exit__(None, None, None)


@pytest.fixture
def machine_of_its_own() -> Iterator[Guest]:
    """A guest for one test, which may end it."""
    with Guest() as machine:
        yield machine


@pytest.fixture
async def node(scratch: Path, guest: Guest, shared_folder: Path) -> AsyncIterator[kata_node.KataNode]:
    """A node with the driver and both Kata runtimes, whose pods run in the guest."""
    async with kata_node.serving(scratch, guest, shared_folder, "/run/shares/sandbox") as served:
        yield served


@pytest.fixture(params=list(kata_node.RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> str:
    """Which of Kata's runtimes the pod has; the test runs with each."""
    return request.param


@pytest.fixture
def volume(node: kata_node.KataNode) -> Callable[..., kata_node.Volume]:
    """Make direct volumes of the node: `volume("pvc-2", fs_type="xfs")`."""

    def make(name: str = "pvc-1", fs_type: str = "ext4", **options: Any) -> kata_node.Volume:
        return kata_node.Volume(node, name, "direct", fs_type, **options)

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add up the seconds of each file, set-up and tear-down apart from the tests themselves."""
    seconds = item.config.stash.setdefault(SECONDS, {})
    file = seconds.setdefault(item.path.name, {"tests": 0.0, "around": 0.0, "number": 0.0})
    file["tests" if call.when == "call" else "around"] += call.duration
    file["number"] += call.when == "call"
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how long the guest took to boot, and what took the time then."""
    if BOOTED_IN in config.stash:
        terminalreporter.write_line(f"guest: up in {config.stash[BOOTED_IN]:.1f} s")
    for name, file in sorted(config.stash.get(SECONDS, {}).items()):
        terminalreporter.write_line(
            f"{name:26}{file['number']:5.0f} tests {file['tests']:7.1f} s"
            f"   set-up and tear-down {file['around']:6.1f} s"
        )
