"""The image at work, in runc: a read-only root filesystem, of the machine /dev and its own folders."""

from __future__ import annotations

import time

import pytest

from katacsi import __version__
from katacsi.csi.client import Client
from katacsi.host import mounttable
from katacsi.testing import leaks
from support.container import ContainedDriver
from support.lifecycle import Life

#: Tells which programs are not there, or do not start; each says its version, or how it is called.
START_ALL = """
import shutil, subprocess
from katacsi.host.command import ENVIRONMENT, PACKAGES
for name in [*PACKAGES, "nsenter", "thin_check"]:
    path = shutil.which(name, path=ENVIRONMENT["PATH"])
    words = {"lvm": ["version"], "dmsetup": ["--help"]}.get(name, ["-V"])
    answer = subprocess.run([path, *words], capture_output=True, env=ENVIRONMENT) if path else None
    if answer is None or answer.returncode == 127 or b"loading shared libraries" in answer.stderr:
        print(name)
"""
#: Imports whatever katacsi imports, but the kit for authors of backends, which needs pytest.
IMPORT_ALL = """
import importlib, pkgutil, katacsi
from katacsi.kube import library
for module in pkgutil.walk_packages(katacsi.__path__, "katacsi."):
    if not module.name.startswith(("katacsi.testing", "katacsi.__main__")):
        importlib.import_module(module.name)
library.library(), library.load_kube_config()
import sys
print(len([name for name in sys.modules if name.startswith("katacsi.")]))
"""
#: Leaves a process whose parent is gone, and which then ends.
ORPHAN = """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.3)
    os._exit(0)
os.wait()
"""
ZOMBIES = """
import glob
for path in glob.glob("/proc/[0-9]*/stat"):
    try:
        name, _, rest = open(path).read().rpartition(")")
    except OSError:
        continue
    if rest.split()[0] == "Z":
        print(name)
"""


@pytest.fixture
def driver(image, runc, scratch):
    """The driver in its container, serving."""
    bundles = scratch / "bundles"
    bundles.mkdir()
    folder = scratch / "node"
    folder.mkdir()
    with ContainedDriver(image, runc, folder, bundles) as served:
        yield served


def test_version(container):
    """Words for a container are words for katacsi."""
    answer = container("--version").run()
    assert (answer.returncode, answer.stdout.strip()) == (0, f"katacsi {__version__}"), answer.stderr


@pytest.mark.parametrize(
    "words", ["doctor --help", "volumes list --help", "backends", "direct-volume --help"]
)
def test_commands(container, words):
    """What a person runs in the pod works there, tables and all."""
    answer = container(*words.split()).run()
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout


@pytest.mark.parametrize("words", ["--version", "watch-nodes --help", "config schema"])
def test_it_needs_no_rights_by_itself(container, words):
    """What asks the API only, such as watch-nodes, runs as nobody, without a capability."""
    answer = container(*words.split(), privileged=False).run()
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout


def test_the_demo_runs_in_it(container, scratch):
    """Who has only the image sees the whole life of a volume by it."""
    answer = container("demo", "--scratch", str(scratch), seen=[scratch]).run()
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_program_starts(driver):
    """All programs that katacsi runs are found on its PATH, and find their libraries."""
    assert driver.container.python(START_ALL).split() == ["kata-runtime"]


def test_every_module_is_there(driver):
    """Nothing that katacsi imports was left out with what it does not, the client of the API included."""
    assert int(driver.container.python(IMPORT_ALL)) > 100


@pytest.mark.parametrize(
    ("way", "fs_type"),
    [("host", "ext4"), ("host", "xfs"), ("host", "btrfs"), ("direct", "ext4"), ("block", "")],
)
async def test_a_volume_lives(driver, way, fs_type):
    """From create to delete, with the machine seeing what is mounted; the bytes stay, and nothing is left."""
    async with Client(driver.socket) as driver.client:
        volume = Life(driver, f"{way}-{fs_type or 'raw'}", way, fs_type)
        await volume.create()
        await volume.stage()
        await volume.publish()
        mounted = mounttable.at(volume.target)
        assert len(mounted) == 1, "the pod would see what lies below"
        assert (mounted[0].fs_type == fs_type) is (way == "host")
        volume.write(1)
        volume.assert_holds(1)
        await volume.unpublish()
        await volume.publish()
        volume.assert_holds(1)
        await volume.unpublish()
        await volume.unstage()
        await volume.delete()
    assert not volume.disk.exists()
    assert not leaks.loops_below(driver.pool)
    volume.forget_folders()


def test_orphans_are_reaped(driver):
    """Process 1 collects a process whose parent is gone."""
    driver.container.python(ORPHAN)
    end = time.monotonic() + 10
    while (left := driver.container.python(ZOMBIES)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == ""
