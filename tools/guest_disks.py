"""The block devices of a running guest: they are hot-plugged, resized and unplugged by QEMU's monitor.

No udev: the guest finds a device by its serial in /sys/block.

Standard library only.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from guest_qemu import PORTS
from guest_wires import Monitor, MonitorError, Port

if TYPE_CHECKING:
    from pathlib import Path

#: Until the guest has seen a plugged, unplugged or resized device.
NOTICE_TIMEOUT_S = 60
#: VIRTIO_BLK_ID_BYTES: the guest sees no more of a serial.
SERIAL = re.compile(r"[A-Za-z0-9._-]{1,20}")


class Disks:
    """What is plugged into one guest. Every method blocks, and may be called from any thread.

    Raises:
        EOFError: from every method, when QEMU is gone.
    """

    def __init__(self, monitor: Monitor, port: Port, *, iothread: bool) -> None:
        self._monitor, self._port, self._iothread = monitor, port, iothread
        self._plugged: dict[str, int] = {}
        self._lock = threading.Lock()

    def plug(self, device: Path, serial: str, *, read_only: bool) -> str:
        """Plug a block device, or a regular file; return its node once the guest has it.

        Raises:
            ValueError: the serial is none, or is taken; or all ports are.
            MonitorError: QEMU cannot open it.
            TimeoutError: the guest does not notice it; `unplug` it all the same.
        """
        port = self._take_port(serial)
        try:
            self._attach(device, serial, port, read_only=read_only)
        except BaseException:
            self._free_port(serial)
            raise
        return f"/dev/{self._wait_for_disk(serial)}"

    def unplug(self, serial: str) -> None:
        """Take a device away; afterwards QEMU has not got it open."""
        if serial not in self._plugged:
            raise ValueError(
                f"no device {serial} is plugged; there are: {', '.join(self._plugged) or 'none'}"
            )
        self._monitor.call("device_del", id=f"disk-{serial}")
        self._monitor.wait_for("DEVICE_DELETED", f"disk-{serial}", NOTICE_TIMEOUT_S)
        self._monitor.call("blockdev-del", node_name=f"node-{serial}")
        self._free_port(serial)

    def resize(self, serial: str, size_bytes: int) -> None:
        """Tell the guest of a device's new size; return when it has it."""
        self._monitor.call("block_resize", node_name=f"node-{serial}", size=size_bytes)
        self._wait_for_disk(serial, size_bytes)

    def _take_port(self, serial: str) -> int:
        if not SERIAL.fullmatch(serial):
            raise ValueError(f"{serial} is no serial: at most 20 letters, digits, dots and hyphens")
        with self._lock:
            if serial in self._plugged:
                raise ValueError(f"a device {serial} is plugged already")
            free = set(range(PORTS)) - set(self._plugged.values())
            if not free:
                raise ValueError(f"all {PORTS} ports are taken: unplug one")
            self._plugged[serial] = min(free)
            return self._plugged[serial]

    def _free_port(self, serial: str) -> None:
        with self._lock:
            del self._plugged[serial]

    def _attach(self, device: Path, serial: str, port: int, *, read_only: bool) -> None:
        cache = {"direct": True, "no-flush": False}
        self._monitor.call(
            "blockdev-add",
            driver="raw",
            node_name=f"node-{serial}",
            read_only=read_only,
            cache=cache,
            file={
                "driver": "host_device" if device.is_block_device() else "file",
                "filename": str(device),
                "aio": "native",
                "cache": cache,
            },
        )
        try:
            self._monitor.call(
                "device_add",
                driver="virtio-blk-pci",
                id=f"disk-{serial}",
                drive=f"node-{serial}",
                serial=serial,
                bus=f"port{port}",
                share_rw=True,
                **({"iothread": "iothread0"} if self._iothread else {}),
            )
        except MonitorError:
            self._monitor.call("blockdev-del", node_name=f"node-{serial}")
            raise

    def _wait_for_disk(self, serial: str, size_bytes: int = 0) -> str:
        """Return the name of the disk with a serial once the guest has it, and in a size if one is given."""
        size = str(size_bytes // 512) if size_bytes else '"$(cat $disk/size)"'
        script = f"""
            while :; do
                for disk in /sys/block/*; do
                    [ -d "$disk" ] || continue  # the pattern itself: there is no disk yet
                    [ "$(cat $disk/serial 2>/dev/null)" = {serial} ] || continue
                    [ -b /dev/${{disk##*/}} ] && [ "$(cat $disk/size)" = {size} ] || continue
                    echo ${{disk##*/}}
                    exit
                done
                sleep 0.05
            done
        """
        return self._port.run(script, NOTICE_TIMEOUT_S).output.strip()
