"""The command lines of a guest's processes: QEMU, and a virtiofsd for each folder that it shares.

Standard library only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from guest_packages import Parts

#: How many devices can be plugged at a time: each has a PCIe port of its own.
PORTS = 12
TAG = re.compile(r"[A-Za-z0-9._-]{1,35}")


@dataclass(frozen=True)
class Share:
    """A folder of the host that the guest sees by virtio-fs, with what is mounted below it, also later."""

    source: Path
    cache: str = "auto"
    """Of virtiofsd: auto, always, or none."""
    options: tuple[str, ...] = ()
    """More of virtiofsd's `-o`, as `allow_direct_io`."""
    announced: bool = True
    """Whether the guest is told which folders below it are mounts of their own, as Kata has it."""

    def command(self, program: Path, listener: int) -> list[str]:
        """Return virtiofsd's command line for a listening socket."""
        # chroot and not a mount namespace, which would not see what is mounted later. The announcing and the
        # one thread are Kata's own (DEFVIRTIOFSEXTRAARGS in its src/runtime/Makefile).
        options = [f"source={self.source}", f"cache={self.cache}", "sandbox=chroot"]
        if self.announced:
            options.append("announce_submounts")
        return [
            str(program),
            f"--fd={listener}",
            "--thread-pool-size=1",
            "-o",
            ",".join([*options, *self.options]),
        ]


@dataclass(frozen=True)
class Hardware:
    """What a machine has from its start; devices are plugged later."""

    memory: int
    """In bytes."""
    cpus: int
    cpu: str
    accelerator: str
    """QEMU's `-accel`."""
    iothread: bool
    shares: Mapping[str, Share]
    """By tag."""
    disks: tuple[Path, ...] = ()
    """Files that are /dev/vda, /dev/vdb … from the start. Flushes are not passed on: not for power cuts."""

    def __post_init__(self) -> None:
        """Refuse a tag that virtio-fs cannot have."""
        for tag in self.shares:
            if not TAG.fullmatch(tag):
                raise ValueError(f"{tag} is no tag of a share: at most 35 letters, digits, dots and hyphens")

    def command(self, parts: Parts, folder: Path, descriptors: Mapping[str, int]) -> list[str]:
        """Return QEMU's command line; in the folder are the sockets of the shares, and will be the console.

        The descriptors are of the sockets `monitor` (QMP), `run` and `machine` (serial ports of the guest).
        """
        words = [str(parts.qemu)]
        words += f"""
            -nodefaults -no-user-config -display none -no-reboot
            -machine q35,memory-backend=memory,usb=off,vmport=off -accel {self.accelerator} -cpu {self.cpu}
            -smp {self.cpus} -m {self.memory >> 20}M
            -object memory-backend-memfd,id=memory,size={self.memory},share=on
            -device virtio-serial-pci
        """.split()
        for place in parts.firmware:
            words += ["-L", str(place)]
        words += ["-kernel", str(parts.kernel), "-initrd", str(parts.initrd)]
        words += ["-append", self._kernel_arguments(), "-serial", f"file:{folder}/console"]
        for name, descriptor in descriptors.items():
            words += ["-chardev", f"socket,id={name},fd={descriptor}"]
        words += ["-mon", "chardev=monitor,mode=control"]
        for name in ("run", "machine"):
            words += ["-device", f"virtserialport,chardev={name},name={name}"]
        for number in range(PORTS):
            words += ["-device", f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1}"]
        for number, disk in enumerate(self.disks):
            words += ["-blockdev", _blockdev(f"disk{number}", disk)]
            words += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        for tag in self.shares:
            words += ["-chardev", f"socket,id=share-{tag},path={folder}/{tag}.socket"]
            words += ["-device", f"vhost-user-fs-pci,queue-size=1024,chardev=share-{tag},tag={tag}"]
        if self.iothread:
            words += ["-object", "iothread,id=iothread0"]
        return words

    def _kernel_arguments(self) -> str:
        # panic=-1 with -no-reboot: a guest that cannot go on ends QEMU, and whoever waits for it is told.
        return (
            "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off audit=0 tsc=reliable random.trust_cpu=on"
            f" guest_shares={','.join(self.shares)}"
        )


def _blockdev(node: str, file: Path) -> str:
    """Return QEMU's `-blockdev` for a file that takes discards as holes."""
    cache = {"direct": False, "no-flush": True}
    return json.dumps(
        {"driver": "file", "node-name": node, "filename": str(file), "discard": "unmap", "cache": cache}
    )
