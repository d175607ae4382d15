"""`katacsi volumes` against a real pool, with the driver up, killed and gone."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from katacsi.csi.client import Client, RpcError
from katacsi.testing.kubelet import Volume
from katacsi.testing.process import ServeProcess

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


class Node(ServeProcess):
    """A driver in a scratch folder, and the command line beside it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    @contextlib.asynccontextmanager
    async def client(self):
        """Start the driver, and kill it afterwards."""
        self.start()
        try:
            async with Client(self.socket) as client:
                yield client
        finally:
            self.kill()

    def cli(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        return subprocess.run(
            [sys.executable, "-m", "katacsi", *words, "--config", self.config],
            capture_output=True,
            text=True,
            check=False,
        )

    def listed(self) -> dict[str, dict]:
        answer = self.cli("volumes", "list", "--output", "json")
        assert answer.returncode == 0, answer.stderr
        return {volume["name"]: volume for volume in json.loads(answer.stdout)}

    def volume(self, client: Client, name: str) -> Volume:
        """A volume with its calls; they are made by that client."""
        return Volume(
            name, client=client, staging=self.folder / "staging", target=self.folder / "pod" / "mount"
        )


@pytest.fixture
def node(scratch):
    return Node(scratch)


async def test_a_volume_is_listed_through_its_life_with_the_driver_up_and_down(node):
    """Format, use, and what waits for a pod's restart are listed; killing the driver changes no line."""
    async with node.client() as client:
        volume = node.volume(client, "data")
        await volume.create()
        fresh = node.listed()["data"]
        await volume.stage()
        await volume.publish()
        record = next(node.records.glob("*/mountInfo.json"))
        device = json.loads(record.read_text())["device"]
        guest = os.open(device, os.O_RDWR)
        try:
            with pytest.raises(RpcError, match="FAILED_PRECONDITION"):
                await volume.expand(128 * MIB)
        finally:
            os.close(guest)
        used = node.listed()["data"]
        table = node.cli("volumes", "list").stdout
        shown = json.loads(node.cli("volumes", "show", "data", "-o", "json").stdout)
    assert (fresh["format"], fresh["guest_written"], fresh["published"]) == ("unformatted", False, [])
    assert (used["format"], used["fs_type"], used["guest_written"]) == ("formatted", "ext4", True)
    assert (used["size_bytes"], used["pending_size_bytes"]) == (128 * MIB, 128 * MIB)
    assert used["staged"] == [str(volume.staging)]
    assert used["published"] == [
        {
            "path": str(volume.target),
            "mode": "direct",
            "read_only": False,
            "device": device,
            "pod": None,
            "pod_uid": None,
            "persistent_volume": None,
        }
    ]
    assert used["devices"] == [device]
    assert "guest-written, grows-to 128Mi" in table
    assert shown["device"] == device
    assert node.listed()["data"] == used
    assert json.loads(node.cli("volumes", "show", volume.volume_id, "-o", "json").stdout) == shown
    async with node.client() as client:
        again = node.volume(client, "data")
        again.volume_id = volume.volume_id
        await again.unpublish()
        await again.unstage()


async def test_a_view_changes_nothing(node):
    """Listing and showing write no file, make no folder and attach no device, and need no running driver."""
    async with node.client() as client:
        await node.volume(client, "data").create()
    # What a driver is about to rename; frozen/ is made by the first freeze of a later version, or gone.
    (node.folder / "state/published/.tmp-7-x-1").write_text("{")
    (node.folder / "state/frozen").rmdir()
    before = everything(node.folder)
    assert set(node.listed()) == {"data"}
    assert node.cli("volumes", "show", "data").returncode == 0
    assert everything(node.folder) == before


def everything(folder: Path) -> dict[str, tuple]:
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
    }


async def test_a_pool_that_cannot_be_read_is_named_and_hides_no_other(node):
    """With one pool's folder gone, the other pool is listed, stderr names the fact, the exit code is 1."""
    (node.folder / "gone").mkdir()
    node.config.write_text(
        node.config.read_text() + f"  other: {{backend: loopfile, directory: {node.folder}/gone}}\n"
    )
    async with node.client() as client:
        here = node.volume(client, "here")
        here.parameters = {"katacsi.io/pool": "default"}
        await here.create()
    (node.folder / "gone").rename(node.folder / "elsewhere")
    answer = node.cli("volumes", "list")
    assert answer.returncode == 1
    assert "here" in answer.stdout
    assert answer.stderr.startswith("Error: pool 'other': ")
    assert len(answer.stderr.splitlines()) == 1
    missing = node.cli("volumes", "show", "unknown")
    assert missing.returncode == 1
    assert "pool 'other'" in missing.stderr, "not absent: one pool could not be asked"


async def test_a_corrupt_record_hides_no_other_volume(node):
    """A volume whose record is torn does not keep the others from being listed."""
    async with node.client() as client:
        await node.volume(client, "good").create()
        await node.volume(client, "torn").create()
    (node.folder / "pool/volumes/torn/volume.json").write_text("{")
    listed = node.listed()
    assert listed["good"]["format"] == "unformatted"
    assert listed["torn"]["condition"]["abnormal"]
    assert listed["torn"]["format"] is None, "nothing is known of it, least of all that it is blank"
    shown = node.cli("volumes", "show", "torn")
    assert "volume.json" in shown.stdout + shown.stderr
    assert node.cli("volumes", "show", "good").returncode == 0


async def test_a_copy_is_marked_and_says_of_what(node):
    """A volume from a snapshot names it."""
    async with node.client() as client:
        volume = node.volume(client, "data")
        await volume.create()
        answer = await volume.snapshot()
        await node.volume(client, "copy").create(snapshot_id=answer.snapshot.snapshot_id)
    listed = node.listed()
    assert listed["copy"]["source"] == answer.snapshot.snapshot_id
    assert listed["data"]["source"] is None


def test_an_empty_pool_that_was_never_served_is_not_made(node):
    """A pool that no driver has opened is an error that says so; looking at it makes no identity."""
    answer = node.cli("volumes", "list")
    assert answer.returncode == 1
    assert "holds no pool" in answer.stderr
    assert list((node.folder / "pool").iterdir()) == []


def test_a_pool_that_is_not_configured_is_a_usage_error(node):
    """A mistyped --pool is named with the pools there are; exit code 2."""
    answer = node.cli("volumes", "list", "--pool", "defualt")
    assert answer.returncode == 2
    assert answer.stderr == "Error: --pool defualt: there is no such pool; the configuration has default\n"


def test_records_of_the_driver_are_listed_from_its_configuration(node):
    """`direct-volume list --config` looks where the driver writes."""
    target = "/var/lib/kubelet/pods/x/volumes/kubernetes.io~csi/pvc/mount"
    entry = node.records / base64.urlsafe_b64encode(target.encode()).decode()
    entry.mkdir(parents=True)
    (entry / "mountInfo.json").write_text('{"volume-type":"directvol","device":"/dev/x","fstype":"xfs"}')
    assert target in node.cli("direct-volume", "list").stdout
