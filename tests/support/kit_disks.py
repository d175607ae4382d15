"""Disks for the reference backend of the kit's tests, with old bytes on them, and ways to break them.

Loop devices stand in for disks, under names of their own below a folder, as /dev has them: those can change
hands without anybody else's devices being touched.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import ClassVar

import pytest

from katacsi.host import block, loop
from katacsi.model import MIB
from support.kit_reference import Disks

SIZES_MIB = (24, 16, 16, 16, 16, 16)


class OnDisks:
    """Fixtures for the kit's suite."""

    backend: ClassVar[type[Disks]] = Disks
    lost_capacity: ClassVar = 0
    patience_s: ClassVar = 0.2

    @pytest.fixture
    def disks(self, scratch):
        """A folder with `dev`, `by-id` and `state`, of which the second links to the first."""
        for folder in ("dev", "by-id", "state"):
            (scratch / folder).mkdir()
        images = []
        for number, size in enumerate(SIZES_MIB):
            image = scratch / f"disk-{number}.img"
            with image.open("wb") as file:
                for start in range(0, size * MIB, 2 * MIB):
                    file.seek(start)
                    file.write(b"\x5a" * 4096)
                file.seek(size * MIB - 4096)
                file.write(b"\x5a" * 4096)
            images.append(image)
            device = loop.attach(image, direct_io=False)
            node = scratch / "dev" / f"sd{'abcdef'[number]}"
            os.mknod(node, 0o600 | 0o060000, os.makedev(*block.device_number(device.path)))
            (scratch / "by-id" / f"disk-{number}").symlink_to(node)
        yield scratch
        for image in (*images, *scratch.glob("*.leak")):
            loop.ensure_detached(image)

    @pytest.fixture
    def make_backend(self, disks):
        settings = Disks.Settings(disks=disks / "by-id", state=disks / "state")
        return lambda context: self.backend(settings, context)

    @pytest.fixture
    def break_storage(self, disks):
        @contextlib.contextmanager
        def unmounted():
            state = disks / "state"
            state.rename(disks / "away")
            state.mkdir()
            try:
                yield
            finally:
                for left in state.iterdir():
                    left.unlink()
                state.rmdir()
                (disks / "away").rename(state)

        return unmounted

    @pytest.fixture
    def break_disk(self, disks):
        @contextlib.contextmanager
        def taken_out(volume):
            disk = json.loads((disks / "state" / f"{volume.id.name}.json").read_text())["disk"]
            link = disks / "by-id" / Path(disk).name
            node = link.resolve()
            link.rename(disks / "link")
            node.rename(disks / "node")
            try:
                yield
            finally:
                (disks / "node").rename(node)
                (disks / "link").rename(link)

        return taken_out

    @pytest.fixture
    def damage_record(self, disks):
        @contextlib.contextmanager
        def torn(volume):
            path = disks / "state" / f"{volume.id.name}.json"
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            try:
                yield
            finally:
                path.write_bytes(whole)

        return torn

    @pytest.fixture
    def rename_devices(self, disks):
        def swapped():
            dev = disks / "dev"
            links = sorted((disks / "by-id").iterdir())
            names = [link.resolve().name for link in links]
            for name in names:
                (dev / name).rename(dev / f"old-{name}")
            for link, former, name in zip(links, names, [*names[1:], names[0]], strict=True):
                (dev / f"old-{former}").rename(dev / name)
                link.unlink()
                link.symlink_to(dev / name)

        return swapped
