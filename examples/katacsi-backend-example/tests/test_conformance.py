"""The backend passes katacsi's own suite. Needs root: loop devices stand in for disks."""

import contextlib
import json
import shutil
import subprocess

import pytest
from katacsi.backends.tools import identity_of
from katacsi.testing import BackendConformance

from katacsi_backend_example import DisksBackend


class TestDisks(BackendConformance):
    """Six disks, one larger than the others."""

    entry_point = "disks"
    # A disk is free at once when its volume is deleted: nothing is lost.
    lost_capacity = 0
    # Half of the steps; 1 tries each, in twice the time.
    kill_every = 2

    @pytest.fixture
    def disks(self, tmp_path):
        devices = []
        for number in range(6):
            image = tmp_path / f"disk-{number}.img"
            image.write_bytes(b"")
            subprocess.run(["truncate", "--size", "24M" if number == 0 else "16M", image], check=True)
            found = subprocess.run(
                ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
            )
            devices.append(found.stdout.strip())
        yield devices
        subprocess.run(["losetup", "--detach", *devices], check=True)

    @pytest.fixture
    def names(self, tmp_path, disks):
        """What the pool's settings call the disks: names that can change hands, as the kernel's do."""
        (tmp_path / "dev").mkdir()
        names = [tmp_path / "dev" / f"sd{number}" for number in range(len(disks))]
        for name, disk in zip(names, disks, strict=True):
            name.symlink_to(disk)
        return names

    @pytest.fixture
    def make_backend(self, tmp_path, names):
        settings = DisksBackend.Settings(devices=names, state_directory=tmp_path / "state")
        return lambda context: DisksBackend(settings, context)

    @pytest.fixture
    def rename_devices(self, names):
        def swap():
            disks = [name.readlink() for name in names]
            for name, disk in zip(names, [*disks[1:], disks[0]], strict=True):
                name.unlink()
                name.symlink_to(disk)

        return swap

    @pytest.fixture
    def break_disk(self, tmp_path, names):
        @contextlib.contextmanager
        def taken_out(volume):
            record = json.loads((tmp_path / "state" / "objects" / f"{volume.id.name}.json").read_text())
            (name,) = [each for each in names if identity_of(each) == record["disk"]]
            disk = name.readlink()
            name.unlink()
            yield
            name.symlink_to(disk)

        return taken_out

    @pytest.fixture
    def break_storage(self, tmp_path):
        @contextlib.contextmanager
        def unmounted():
            state = tmp_path / "state"
            state.rename(tmp_path / "away")
            state.mkdir()
            yield
            shutil.rmtree(state)
            (tmp_path / "away").rename(state)

        return unmounted

    @pytest.fixture
    def damage_record(self, tmp_path):
        @contextlib.contextmanager
        def torn(volume):
            record = tmp_path / "state" / "objects" / f"{volume.id.name}.json"
            whole = record.read_bytes()
            record.write_bytes(whole[: len(whole) // 2])
            yield
            record.write_bytes(whole)

        return torn
