"""A sandbox of runtime-rs: strict about records, and blind to their metadata.

Paths: src/runtime-rs/crates/resource/src/volume.
"""

from __future__ import annotations

import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from support import shims
from support.kata_runtime import records
from support.kata_runtime.records import CreateFailed
from support.kata_runtime.sandboxes import SOCKET, Disk, OciMount, Sandbox, is_read_only

if TYPE_CHECKING:
    from contextlib import ExitStack


class RustSandbox(Sandbox):
    """A sandbox of runtime-rs (src/runtime-rs/crates/resource/src/volume/direct_volumes)."""

    name = "runtime-rs"
    _shared_below = "rw/passthrough"
    _shares_by_container = False

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]  # the same as there
        self._sockets = self._places.rust_sockets
        self.shim: shims.RustShim = shims.RustShim(self._sockets / self.id / SOCKET, self._guest_agent())

    def _prepare(self, container_id: str, mount: OciMount, undo: ExitStack) -> str:
        record = records.rust_lookup(self._places.records, mount.source)
        if record is None:
            return self._share(container_id, mount, undo)
        if record.volume_type != "directvol":
            raise CreateFailed(f'volume type "{record.volume_type}" is invalid')
        if self._disabled:  # leaves no block device driver (kata-types, config/hypervisor/mod.rs)
            raise CreateFailed("do handle device failed")
        read_only = mount.read_only or _device_is_read_only(record)
        options = [word for word in record.options if word not in ("bind", "rbind")]
        if read_only and "ro" not in options:
            options.append("ro")
        disk = self._attach(record.device, record.device, undo, read_only=read_only)
        name = f"{disk.serial[4:14]}-{secrets.token_hex(4)}-{Path(mount.destination).name}"
        self._shares.folder(name)
        at = f"/run/kata-containers/shared/containers/passthrough/{name}"
        # Metadata is not looked at, and each container mounts the device anew, at a path of its own.
        self._mount(disk, at, record, options, undo)
        return at

    def kill_shim(self) -> None:
        """Leave the guest running: `cleanup` of its hypervisor removes a folder only (qemu/inner.rs)."""
        self._clean_up()

    def _detach(self, key: object, disk: Disk) -> None:
        """Forget a device with any of its users; what the others had stays plugged until the sandbox ends.

        So a container that fails after its disk was plugged leaves it behind (hypervisor/src/device/
        device_manager.rs, try_remove_device: a device that is only counted down is removed from the list).
        """
        if self._disks.get(key) is not disk:
            return  # "device with specified ID hasn't been created"
        disk.users -= 1
        del self._disks[key]
        if disk.users:
            self._forgotten.append(disk)
        else:
            self.machine.unplug(disk.serial)


def _device_is_read_only(record: records.Record) -> bool:
    """Look at the host's flag; the word `ro` in the record means the guest's mount only."""
    try:
        mode = Path(record.device).stat().st_mode
    except OSError as error:
        raise CreateFailed(f"stat volume device file: {record.device}: {error.strerror}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise CreateFailed(f'invalid volume device "{record.device}" for volume type "directvol"')
    return stat.S_ISBLK(mode) and is_read_only(record.device)
