"""What every tier shares: markers by folder, skips that name the remedy, a scratch folder to leave clean.

A test's tier is the folder it lies in; nobody writes `@pytest.mark.host`. The tiers themselves are in
tools/tiers.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from katacsi.testing import leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).resolve().parent
TREE = TESTS.parent

TIER_OF_FOLDER = {
    "unit": "unit",
    "proto": "unit",
    "rpc": "rpc",
    "host": "host",
    "sanity": "sanity",
    "crash": "crash",
    "lab": "lab",
    "guest": "guest",
    "image": "image",
    "kube": "kube",
}
ROOT_TIERS = {"host", "sanity", "crash", "guest", "image", "kube"}

GATES = pytest.StashKey[dict[str, list[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gates", action="store_true", help="list the gates and the tests that hold them; run none"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its tier, skip what cannot run here, and collect the gates."""
    remedy: str | None = None
    gates = config.stash.setdefault(GATES, {})
    for item in items:
        for mark in item.iter_markers("gate"):
            gates.setdefault(_gate_name(item, mark), []).append(item.nodeid)
        tier = _tier(item)
        if tier is None:
            continue
        item.add_marker(tier)
        if tier in ROOT_TIERS:
            remedy = _why_no_root_tiers(tier) if remedy is None else remedy
            if remedy:
                item.add_marker(pytest.mark.skip(reason=remedy))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With --gates: print the list that docs/development.md keeps, instead of running the tests."""
    if not session.config.option.gates:
        return None
    terminal = session.config.get_terminal_writer()
    for name, tests in sorted(session.config.stash[GATES].items()):
        terminal.line(name)
        # A table is one promise, however many rows it has.
        for test in sorted({test.split("[")[0] for test in tests}):
            terminal.line(f"    {test}")
    return True


def _tier(item: pytest.Item) -> str | None:
    """Return the tier of the folder that a test lies in; a test beside no tier has no marker."""
    if not item.path.is_relative_to(TESTS):
        return None
    return TIER_OF_FOLDER.get(item.path.relative_to(TESTS).parts[0])


def _gate_name(item: pytest.Item, mark: pytest.Mark) -> str:
    """Return a gate's name; the list in the docs is only useful when they all look alike."""
    name = mark.args[0] if len(mark.args) == 1 and not mark.kwargs else None
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise pytest.UsageError(
            f"{item.nodeid}: gate takes one name in lower-case-with-hyphens, not {mark.args}"
        )
    return name


def _why_no_root_tiers(tier: str) -> str:
    """Return why the tiers that touch the kernel cannot run here, with the remedy; empty when they can."""
    if os.geteuid() != 0:
        return f"needs root: sudo make test TIER={tier}"
    missing = [tool for tool in ("losetup", "mount", "mkfs.ext4", "mkfs.xfs") if not shutil.which(tool)]
    if missing:
        return f"{', '.join(missing)} not found: run tools/bootstrap.sh tools"
    if not Path("/dev/loop-control").exists():
        return "no /dev/loop-control: modprobe loop; in a container, run it privileged with the host's /dev"
    with tempfile.NamedTemporaryFile(dir=_disk_folder(), prefix="katacsi-loop-") as file:
        file.truncate(1 << 20)
        # Tried, not guessed: a container may see the node and still be refused.
        answer = subprocess.run(
            ["losetup", "--find", "--show", file.name], capture_output=True, text=True, check=False
        )
        if answer.returncode:
            return f"loop devices do not work here ({answer.stderr.strip()}): use a privileged machine"
        subprocess.run(["losetup", "--detach", answer.stdout.strip()], check=True)
    return ""


def _disk_folder() -> Path:
    """Return a folder on a disk: tmpfs has no direct I/O, and its hole punching is not a disk's."""
    candidates = [os.environ.get("KATACSI_TEST_FOLDER"), "/var/tmp", str(Path.home()), str(TREE)]
    for folder in (Path(name) for name in candidates if name):
        if os.access(folder, os.W_OK) and leaks.filesystem_of(folder) not in {"tmpfs", "ramfs"}:
            return folder
    return Path("/var/tmp")


@pytest.fixture(scope="session")
def scratch_root() -> Iterator[Path]:
    """The folder under which all scratch folders of this run lie; at the end nothing of it may be left."""
    root = Path(tempfile.mkdtemp(prefix="katacsi-test-", dir=_disk_folder())).resolve()
    yield root
    left = leaks.settled_leaks_below(root)
    leaks.undo(left)
    _remove(root)
    if left:
        pytest.fail(f"the run left behind:\n{left}", pytrace=False)


@pytest.fixture
def scratch(scratch_root: Path) -> Iterator[Path]:
    """A fresh folder on a disk; the test fails when it leaves a mount or a loop device below it."""
    folder = Path(tempfile.mkdtemp(dir=scratch_root))
    yield folder
    left = leaks.settled_leaks_below(folder)
    leaks.undo(left)
    _remove(folder)
    if left:
        pytest.fail(f"the test left behind:\n{left}", pytrace=False)


def _remove(folder: Path) -> None:
    """Remove a folder, unless something is still mounted below it: rmtree would walk into that."""
    if stuck := leaks.settled_leaks_below(folder).mounts:
        pytest.fail(f"{folder} stays: still mounted: {', '.join(map(str, stuck))}", pytrace=False)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def gotool() -> Callable[[str], Path]:
    """Give the path of a Go program of tools/gotools.py by its name; skip the test when it cannot be had."""

    def path(name: str) -> Path:
        answer = subprocess.run(
            [sys.executable, TREE / "tools" / "gotools.py", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode:
            pytest.skip(answer.stderr.strip())
        return Path(answer.stdout.strip())

    return path
