"""A sandbox of the Go runtime: lenient, and silent where it falls back to sharing the host's folder.

Paths: src/runtime/virtcontainers/container.go and kata_agent.go.
"""

from __future__ import annotations

import os
import stat
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from support import shims
from support.kata_runtime import records
from support.kata_runtime.agent import FsGroup
from support.kata_runtime.records import CreateFailed, Unusable
from support.kata_runtime.sandboxes import SOCKET, OciMount, Sandbox, is_read_only

if TYPE_CHECKING:
    from contextlib import ExitStack


class GoSandbox(Sandbox):
    """A sandbox of the Go runtime (src/runtime/virtcontainers/container.go, createBlockDevices)."""

    name = "go"
    _shared_below = "mounts"
    _shares_by_container = True

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]  # the same as there
        self._sockets = self._places.go_sockets
        self.shim: shims.GoShim = shims.GoShim(self._sockets / self.id / SOCKET, self._guest_agent())

    def _prepare(self, container_id: str, mount: OciMount, undo: ExitStack) -> str:
        if self._disabled:
            self.log.append("Block device not supported")
            return self._share(container_id, mount, undo)
        try:
            record = records.go_lookup(self._places.records, mount.source)
        except Unusable as problem:
            self.log.append(f"failed to parse the mount info file for a direct assigned volume: {problem}")
            return self._share(container_id, mount, undo)
        if record is None:
            return self._share(container_id, mount, undo)
        # Before the attach is tried, and never removed.
        (records.entry(self._places.records, mount.source) / self.id).touch(mode=0o600)
        device = _go_device(record)
        if device is None:
            # The mount has a filesystem's type by now, so it is not shared either: the agent gets the host's
            # path (container.go:475, 710-726).
            return mount.source
        key, read_only = device
        disk = self._attach(key, record.device, undo, read_only=read_only)
        at = f"/run/kata-containers/sandbox/storage/{urlsafe_b64encode(disk.name.encode()).decode()}"
        self._mount(disk, at, record, list(record.options), undo, group=self._group(record))
        self.shim.mounts[record.device] = at
        return at

    def kill_shim(self) -> None:
        """End the guest, as `shim delete` does, which containerd calls then (service.go, Cleanup)."""
        self.kill()

    def _group(self, record: records.Record) -> FsGroup | None:
        """Read the group (container.go:678-705, kata_agent.go:2019-2027); other keys are only logged."""
        for key, value in record.metadata.items():
            if key not in ("fsGroup", "fsGroupChangePolicy", "createFilesystem", "encryptionKey"):
                self.log.append(
                    f"Ignoring unsupported direct-assignd volume metadata key: {key}, value: {value}"
                )
        if "fsGroup" not in record.metadata:
            return None
        try:
            gid = int(record.metadata["fsGroup"])
        except ValueError as problem:
            self.log.append(f"invalid group id value: {problem}")
            return None
        if not 0 < gid < 1 << 32:
            raise CreateFailed(f"m.FSGroup value was out of range: {gid}")
        return FsGroup(gid, record.metadata.get("fsGroupChangePolicy") == "OnRootMismatch")


def _go_device(record: records.Record) -> tuple[object, bool] | None:
    """Give what the Go runtime takes for the same device, and whether it is read-only; None: no device."""
    try:
        status = Path(record.device).stat()
    except OSError:
        return None
    read_only = "ro" in record.options
    if stat.S_ISBLK(status.st_mode):
        number = os.major(status.st_rdev), os.minor(status.st_rdev)
        return number, read_only or is_read_only(record.device)
    return (record.device, read_only) if stat.S_ISREG(status.st_mode) else None
