"""A node with Kata: the real driver, the kubelet's calls, and pods whose guests are real."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import urllib.request
from typing import TYPE_CHECKING, Any

from katacsi.backends.loopfile import factfile
from katacsi.csi.client import Client, csi
from katacsi.directvolume.names import entry_name
from katacsi.testing import leaks
from support.driver import Driver
from support.kata_runtime.go import GoSandbox
from support.kata_runtime.machine import Places
from support.kata_runtime.rust import RustSandbox
from support.kata_runtime.sandboxes import Container, OciMount, Sandbox
from support.lifecycle import Life

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.kata_runtime.machine import Machine

MIB = 1 << 20
RUNTIMES = {"go": GoSandbox, "runtime-rs": RustSandbox}


class KataNode:
    """What is on the node, from boot to boot.

    Attributes:
        client: the client of the driver that runs now.
    """

    def __init__(self, scratch: Path, machine: Machine, shared: Path, shared_in_guest: str) -> None:
        self.scratch = scratch
        self.machine = machine
        self.pool = scratch / "pool"
        self.pods = scratch / "pods"
        self.staging = scratch / "staging"
        for folder in (self.pods, self.staging):
            folder.mkdir()
        self.driver = Driver(scratch, settings={"metrics": {"address": "127.0.0.1:0"}})
        self.places = Places(self.driver.records, shared, shared_in_guest)
        self.client: Client | None = None
        self._mkfs_before = 0.0

    # -- the node's life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the driver."""
        self.driver.start()
        self.client = await Client(self.driver.socket).__aenter__()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the driver, and keep what it counted."""
        self._mkfs_before += self.mkfs_runs_of_this_driver()
        if self.client is not None:
            await self.client.__aexit__(None, None, None)
            self.client = None
        self.driver.stop(number)

    async def reboot(self) -> None:
        """Lose what a reboot loses: /run with records and facts, all mounts, all loop devices; then start."""
        await self.stop(signal.SIGKILL)
        self.driver.socket.unlink(missing_ok=True)
        self.lose_kernel_state()
        for left in self.driver.run.iterdir():
            shutil.rmtree(left)
        await self.start()

    def lose_kernel_state(self) -> None:
        """Unmount and detach all that is the driver's."""
        for folder in (self.pods, self.staging, self.pool):
            leaks.undo(leaks.leaks_below(folder))

    async def close(self) -> None:
        """End the driver, and clear what a test left on purpose."""
        if self.driver.runs:
            await self.stop()
        self.lose_kernel_state()
        shutil.rmtree(self.driver.run)

    # -- what a person sees ----------------------------------------------------------------------------

    @property
    def mkfs_runs(self) -> float:
        """How often the host made a filesystem, over all drivers of this node."""
        return self._mkfs_before + self.mkfs_runs_of_this_driver()

    def mkfs_runs_of_this_driver(self) -> float:
        """Sum up what the running driver's metrics say of mkfs."""
        counted = re.compile(r'^katacsi_\w*command\w*_count\{.*tool="mkfs\.\w+".*\} (\S+)$', re.MULTILINE)
        return sum(float(number) for number in counted.findall(self._metrics()))

    def _metrics(self) -> str:
        ports = re.findall(r'"?port"?[=:]\s*(\d+)', self.driver.log.read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[-1]}/metrics") as page:
            return page.read().decode()

    # -- its pods --------------------------------------------------------------------------------------

    def sandbox(self, runtime: str, **options: Any) -> Sandbox:
        """Make the sandbox of a pod; it starts with `with`."""
        return RUNTIMES[runtime](self.places, options.pop("machine", self.machine), **options)

    def entry_of(self, target: Path) -> Path:
        """Where Kata looks for the record of a target."""
        return self.places.records / entry_name(str(target))


class Volume(Life):
    """A direct volume of a node with Kata."""

    async def up(self) -> None:
        """Bring it from nothing to its pod."""
        await self.create()
        await self.stage()
        await self.publish()

    async def down(self) -> None:
        """Take it from its pod, and off the node."""
        await self.unpublish()
        await self.unstage()

    def mount(self, destination: str = "/data", *, read_only: bool = False) -> OciMount:
        """The mount of a container that uses it: containerd's, with the kubelet's path."""
        return OciMount(str(self.target), destination, read_only)

    @property
    def facts(self) -> dict[str, Any]:
        """What is stored with it: its format, and whether a guest wrote it."""
        record = factfile.decode((self.disk.parent / "volume.json").read_bytes())
        stored: dict[str, Any] = json.loads(record.facts)
        return stored

    async def numbers(self) -> dict[csi.VolumeUsageUnit, tuple[int, int, int]]:
        """Ask NodeGetVolumeStats: total, available and used, by unit."""
        answer = await self.stats()
        return {usage.unit: (usage.total, usage.available, usage.used) for usage in answer.usage}


@contextlib.asynccontextmanager
async def serving(
    scratch: Path, machine: Machine, shared: Path, shared_in_guest: str
) -> AsyncIterator[KataNode]:
    """Serve a node until the block ends; show the driver's log when it ends badly."""
    node = KataNode(scratch, machine, shared, shared_in_guest)
    try:
        await node.start()
        yield node
    except BaseException:
        print(node.driver.log.read_text()[-20000:])
        raise
    finally:
        await node.close()


def write(container: Container, name: str, size: int, *, at: str = "/data") -> str:
    """Write random bytes in a guest, durably; give their digest."""
    return container.must(
        f"dd if=/dev/urandom of={name} bs=64k count={size >> 16} conv=fsync 2>/dev/null && "
        f"sha256sum < {name}", at=at
    )  # fmt: skip


def digest(container: Container, name: str, *, at: str = "/data") -> str:
    """Give the digest of a file in a guest."""
    return container.must(f"sha256sum < {name}", at=at)
