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
from pathlib import Path
from typing import TYPE_CHECKING

from guest import Guest
from katacsi.csi.client import Client, RpcError
from katacsi.directvolume.names import RECORD_FILE, entry_name
from katacsi.testing.kubelet import Volume
from katacsi.testing.process import DriverFailed, ServeProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
SIZE, GROWN = 256 * MIB, 512 * MIB
GROUP = "nested"
SERIAL = "volume"


class Broken(Exception):
    """A step did not come out as it has to."""


async def chain(disk: str) -> None:
    """Go through all steps."""
    with step("vgcreate"):
        run("vgcreate", "--yes", "--quiet", GROUP, disk)
    pool = {"backend": "lvm", "volume_group": GROUP, "devices": [disk]}
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        home = Path(folder)
        settings = {"kube": {"enabled": False}, "pools": {"default": pool}}
        with serving(ServeProcess(home, settings=settings)) as driver:
            async with Client(driver.socket) as client:
                volume = Volume(
                    "pvc-nested",
                    client=client,
                    staging=home / "globalmount",
                    target=home / "pod" / "mount",
                    size=SIZE,
                )
                device = await hand_over(volume, driver.records)
                with boot() as guest:
                    before = use(guest, device)
                    await grow(volume, device)
                    fill(guest, before)
                await take_back(volume)


async def hand_over(volume: Volume, records: Path) -> Path:
    """Create, stage and publish; then read the record, as Kata does, and give its device."""
    with step("CreateVolume: an LV"):
        await volume.create()
    with step("NodeStageVolume: ext4"):
        await volume.stage()
    with step("NodePublishVolume: the record"):
        await volume.publish()
    record = records / entry_name(str(volume.target)) / RECORD_FILE
    device = Path(json.loads(record.read_text())["device"])
    print(f"          the record names {device}, {size_of(device) // MIB} MiB", flush=True)
    return device


async def grow(volume: Volume, device: Path) -> None:
    """Let the driver grow the LV; there is no runtime to ask, so it answers that the rest is to come."""
    with step("NodeExpandVolume: the LV grows"):
        try:
            await volume.expand(GROWN)
        except RpcError as error:
            expect(error.code == "FAILED_PRECONDITION", str(error))
        else:
            raise Broken("NodeExpandVolume says that a filesystem has grown which has not")
    expect(size_of(device) == GROWN, f"{device} has {size_of(device)} bytes")


async def take_back(volume: Volume) -> None:
    """Unpublish, unstage, delete."""
    with step("NodeUnpublishVolume, NodeUnstageVolume"):
        await volume.unpublish()
        await volume.unstage()
    with step("DeleteVolume"):
        await volume.delete()
    left = run("lvs", "--noheadings", "-o", "lv_name", GROUP)
    expect(not left, f"LVs are left: {left}")


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
def serving(driver: ServeProcess) -> Iterator[ServeProcess]:
    """Run the driver."""
    with contextlib.ExitStack() as stack:
        with step("katacsi serve, until it is ready"):
            stack.enter_context(driver)
        yield driver


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
    except (Broken, DriverFailed, RpcError) as error:
        print("\n".join([f"nested: {error}", *getattr(error, "__notes__", ())]))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
