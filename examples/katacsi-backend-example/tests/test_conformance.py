"""The backend passes katacsi's own suite. Needs root: loop devices stand in for disks."""

import contextlib
import shutil
import subprocess

import pytest
from katacsi.testing import BackendConformance

from katacsi_backend_example import DisksBackend


class TestDisks(BackendConformance):
    """Six disks, one larger than the others."""

    entry_point = "disks"
    # A disk is free at once when its volume is deleted: nothing is lost.
    lost_capacity = 0

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
    def make_backend(self, tmp_path, disks):
        settings = DisksBackend.Settings(devices=disks, state_directory=tmp_path / "state")
        return lambda context: DisksBackend(settings, context)

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
