"""An author's first hour: the commands of docs/write-a-backend.md, then a backend of their own, served."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from katacsi.csi.client import Client
from katacsi.host import loop
from katacsi.testing.kubelet import Volume
from katacsi.testing.process import DriverProcess

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "write-a-backend.md"
EXAMPLE = "examples/katacsi-backend-example"
MIB = 1 << 20


def _run(*argv, cwd):
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of what a clone has, in which the page's own environment can be made."""
    house = tmp_path_factory.mktemp("house")
    for name in _run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name.startswith(("src/", "examples/")) or name in {"pyproject.toml", "README.md", "LICENSE"}:
            target = house / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    return house


@pytest.fixture(scope="module")
def commands():
    """The commands with which the page begins."""
    text = PAGE.read_text()
    block = re.search(r"## Start from the example.*?```\n(.*?)```", text, re.DOTALL)
    assert block, "the page begins with commands"
    return block[1].splitlines()


@pytest.fixture(scope="module")
def installed(house, commands):
    """What `katacsi backends` says after the page's first commands: the example is installed."""
    venv, install, backends, suite = commands
    assert suite == f"sudo env/bin/pytest {EXAMPLE}"
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        pytest.skip("this Python has no ensurepip, so `python3 -m venv` does not work (python3-venv)")
    _run(*venv.replace("python3", sys.executable).split(), cwd=house)
    _run("sh", "-c", install, cwd=house)
    return _run(*backends.split(), cwd=house)


def test_the_page_s_commands_do_what_it_says(house, installed):
    """The example is listed by its name, and its suite is found and passes."""
    assert re.search(r"\bdisks\b", installed)
    shown = _run("env/bin/pytest", EXAMPLE, "-q", "-k", "test_a_new_device_is_blank", cwd=house)
    assert "1 passed" in shown


async def test_a_backend_of_one_s_own_is_served(house, installed, scratch):
    """Copied, renamed and installed, it serves a volume from its creation to a guest's record and back."""
    mine = house / "mine"
    shutil.copytree(house / EXAMPLE, mine)
    (mine / "src" / "katacsi_backend_example").rename(mine / "src" / "my_disks")
    for file in (*mine.rglob("*.py"), mine / "pyproject.toml"):
        text = file.read_text().replace("katacsi_backend_example", "my_disks")
        text = text.replace("katacsi-backend-example", "my-disks").replace("disks = ", "mine = ")
        file.write_text(text.replace("disks.katacsi.io", "mine.katacsi.io"))
    _run("env/bin/pip", "install", "--no-deps", "./mine", cwd=house)
    assert re.search(r"\bmine\b", _run("env/bin/katacsi", "backends", cwd=house))

    image = scratch / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    disk = loop.attach(image, direct_io=False).path
    run = scratch / "run"
    run.mkdir()
    config = scratch / "katacsi.yaml"
    pool = {"backend": "mine", "devices": [str(disk)], "state_directory": str(scratch / "state")}
    settings = {"state_directory": str(run / "s"), "direct_volume_root": str(run / "r")}
    config.write_text(yaml.safe_dump({**settings, "pools": {"default": pool}}))
    argv = [str(house / "env/bin/katacsi"), "serve", "--config", str(config), "--node-id", "node-1"]
    socket = Path("/tmp") / f"first-hour-{os.getpid()}.sock"  # a socket's path has to be short
    driver = DriverProcess([*argv, "--endpoint", f"unix://{socket}"], socket=socket, log=scratch / "log")
    driver.spawn()
    try:
        await driver.wait_ready()
        async with Client(socket) as client:
            volume = Volume(
                "pvc-1",
                staging=scratch / "staging",
                target=scratch / "pods" / "pvc-1" / "mount",
                client=client,
                size=32 * MIB,
                parameters={"katacsi.io/direct": "true"},
            )
            for call in (volume.create, volume.stage, volume.publish):
                await call()
            (record,) = (run / "r").glob("*/mountInfo.json")
            assert f'"{disk}"' in record.read_text()
            for call in (volume.unpublish, volume.unstage, volume.delete):
                await call()
    finally:
        driver.stop()
        loop.ensure_detached(image)
    with image.open("rb") as file:
        assert not file.read().strip(b"\0"), "what was deleted is wiped"
