"""What tools/lab_nested.py runs in its machine: a volume's life on a real LV, with a real KVM guest.

    python lab_nested_chain.py /dev/vda

Prints each step with its milliseconds, and ends with 1 at the first that does not come out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from guest import Guest
from katacsi.csi.client import Client, RpcError, csi
from katacsi.directvolume.names import RECORD_FILE, entry_name

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
SIZE, GROWN = 256 * MIB, 512 * MIB
GROUP = "nested"
SERIAL = "volume"
CAPABILITY = csi.VolumeCapability(
    mount=csi.VolumeCapabilityMountVolume(fs_type="ext4"),
    access_mode=csi.VolumeCapabilityAccessMode(mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER),
)


class Broken(Exception):
    """A step did not come out as it has to."""


@dataclass
class Chain:
    """The steps, on folders of their own."""

    home: Path
    disk: str
    device: Path = Path()
    volume_id: str = ""
    context: dict[str, str] = field(default_factory=dict)

    @property
    def staging(self) -> Path:
        """Where the kubelet stages."""
        return self.home / "globalmount"

    @property
    def target(self) -> Path:
        """Where the kubelet publishes."""
        return self.home / "pod" / "mount"

    def config(self) -> Path:
        """Write the driver's configuration."""
        config = self.home / "katacsi.yaml"
        config.write_text(
            "kube: {enabled: false}\n"
            f"direct_volume_root: {self.home}/direct-volumes\n"
            f"state_directory: {self.home}/state\n"
            "pools:\n"
            f"  default: {{backend: lvm, volume_group: {GROUP}, devices: [{self.disk}]}}\n"
        )
        return config

    async def hand_over(self, client: Client) -> None:
        """Create, stage and publish; then read the record, as Kata does."""
        with step("CreateVolume: an LV"):
            made = await client.controller.create_volume(
                csi.CreateVolumeRequest(
                    name="pvc-nested",
                    capacity_range=csi.CapacityRange(required_bytes=SIZE),
                    volume_capabilities=[CAPABILITY],
                    parameters={"katacsi.io/direct": "true"},
                )
            )
        assert made.volume is not None
        self.volume_id, self.context = made.volume.volume_id, dict(made.volume.volume_context)
        for folder in (self.staging, self.target.parent):
            folder.mkdir()
        with step("NodeStageVolume: ext4"):
            await client.node.node_stage_volume(
                csi.NodeStageVolumeRequest(
                    volume_id=self.volume_id,
                    staging_target_path=str(self.staging),
                    volume_capability=CAPABILITY,
                    volume_context=self.context,
                )
            )
        with step("NodePublishVolume: the record"):
            await client.node.node_publish_volume(
                csi.NodePublishVolumeRequest(
                    volume_id=self.volume_id,
                    staging_target_path=str(self.staging),
                    target_path=str(self.target),
                    volume_capability=CAPABILITY,
                    volume_context=self.context,
                )
            )
        record = self.home / "direct-volumes" / entry_name(str(self.target)) / RECORD_FILE
        self.device = Path(json.loads(record.read_text())["device"])
        print(f"          the record names {self.device}, {size_of(self.device) // MIB} MiB", flush=True)

    async def grow(self, client: Client) -> None:
        """Let the driver grow the LV; there is no runtime to ask, so it answers that the rest is to come."""
        with step("NodeExpandVolume: the LV grows"):
            try:
                await client.node.node_expand_volume(
                    csi.NodeExpandVolumeRequest(
                        volume_id=self.volume_id,
                        volume_path=str(self.target),
                        staging_target_path=str(self.staging),
                        capacity_range=csi.CapacityRange(required_bytes=GROWN),
                        volume_capability=CAPABILITY,
                    )
                )
            except RpcError as error:
                expect(error.code == "FAILED_PRECONDITION", str(error))
            else:
                raise Broken("NodeExpandVolume says that a filesystem has grown which has not")
        expect(size_of(self.device) == GROWN, f"{self.device} has {size_of(self.device)} bytes")

    async def take_back(self, client: Client) -> None:
        """Unpublish, unstage, delete."""
        with step("NodeUnpublishVolume, NodeUnstageVolume"):
            await client.node.node_unpublish_volume(
                csi.NodeUnpublishVolumeRequest(volume_id=self.volume_id, target_path=str(self.target))
            )
            await client.node.node_unstage_volume(
                csi.NodeUnstageVolumeRequest(volume_id=self.volume_id, staging_target_path=str(self.staging))
            )
        with step("DeleteVolume"):
            await client.controller.delete_volume(csi.DeleteVolumeRequest(volume_id=self.volume_id))
        left = run("lvs", "--noheadings", "-o", "lv_name", GROUP)
        expect(not left, f"LVs are left: {left}")


async def chain(disk: str) -> None:
    """Go through all steps."""
    with step("vgcreate"):
        run("vgcreate", "--yes", "--quiet", GROUP, disk)
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        it = Chain(Path(folder), disk)
        with driver(it) as socket:
            async with Client(socket) as client:
                with step("katacsi serve, until it is ready"):
                    await client.wait_ready(60)
                await it.hand_over(client)
                with boot() as guest:
                    before = use(guest, it.device)
                    await it.grow(client)
                    fill(guest, before)
                await it.take_back(client)


def use(guest: Guest, device: Path) -> str:
    """Plug the device, mount it in the guest and write; give the digest of what was written."""
    with step("QMP: the guest has the device"):
        node = guest.plug(device, SERIAL)
    with step("in the guest: mount, write 16 MiB, sync"):
        must(guest, f"mount -t ext4 {node} /mnt")
        must(guest, "dd if=/dev/urandom of=/mnt/data bs=1M count=16 conv=fsync 2>/dev/null")
    return must(guest, "sha256sum < /mnt/data")


def fill(guest: Guest, written: str) -> None:
    """Grow what the guest sees, then its mounted filesystem; nothing written may change."""
    name = must(guest, "sed -n 's,^/dev/\\([a-z]*\\) /mnt .*,\\1,p' /proc/mounts")
    size = int(must(guest, f"cat /sys/block/{name}/size")) * 512
    expect(size == SIZE, f"the guest sees {size} bytes before it was told")
    with step("QMP block_resize: the guest has the new size"):
        guest.resize(SERIAL, GROWN)
    with step("in the guest: resize2fs while mounted"):
        must(guest, f"resize2fs /dev/{name} 2>&1")
    blocks, block = map(int, must(guest, "stat -f -c '%b %S' /mnt").split())
    expect(blocks * block > 0.9 * GROWN, f"the filesystem has {blocks * block} bytes")
    with step("in the guest: the bytes are the same, fsck is content"):
        digest = must(guest, "echo 3 > /proc/sys/vm/drop_caches; sha256sum < /mnt/data")
        expect(digest == written, "what was written has changed")
        must(guest, f"umount /mnt; e2fsck -f -n /dev/{name} 2>&1")
    with step("QMP: the device is unplugged"):
        guest.unplug(SERIAL)


@contextlib.contextmanager
def boot() -> Iterator[Guest]:
    """Start a guest with KVM."""
    guest = Guest(accelerator="kvm", cpu="host", memory=384 * MIB)
    with step("a guest boots, with KVM"):
        guest.__enter__()
    try:
        yield guest
    finally:
        guest.__exit__(None, None, None)


@contextlib.contextmanager
def driver(it: Chain) -> Iterator[Path]:
    """Start `katacsi serve`; give its socket."""
    socket = it.home / "csi.sock"
    options = ["--config", str(it.config()), "--endpoint", f"unix://{socket}", "--node-id", "nested"]
    with (it.home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "katacsi", "serve", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield socket
    except BaseException:
        print((it.home / "log").read_text("utf-8", "replace")[-4000:])
        raise
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Print what was done and how long it took."""
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"   failed {what}", flush=True)
        raise
    print(f"{1000 * (time.monotonic() - started):6.0f} ms {what}", flush=True)


def must(guest: Guest, command: str) -> str:
    """Run a command in the guest that has to succeed; give what it says."""
    answer = guest.run(command)
    expect(answer.code == 0, f"in the guest, exit code {answer.code}: {command}\n{answer.output}")
    return answer.output.strip()


def run(*argv: str) -> str:
    """Run a command that has to succeed; give what it says."""
    answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    expect(answer.returncode == 0, f"{' '.join(argv)}: {answer.stderr.strip()}")
    return answer.stdout.strip()


def expect(holds: bool, otherwise: str) -> None:  # an assertion with words
    """Go on only when something holds."""
    if not holds:
        raise Broken(otherwise)


def size_of(device: Path) -> int:
    """Give the bytes of a block device."""
    with device.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_END)


def main() -> int:
    """Go through the chain."""
    try:
        asyncio.run(chain(sys.argv[1]))
    except (Broken, RpcError) as error:
        print(f"nested: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
