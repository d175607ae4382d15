"""The backend passes katacsi's own suite, with two nodes. Needs root: a loop device stands in for a login."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from katacsi.testing import BackendConformance

from katacsi_backend_appliance import ApplianceBackend

APPLIANCE = Path(__file__).with_name("appliance.py")


class Appliance:
    """The appliance as a process of its own, at one port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "appliance"
        self.folder.mkdir()
        self.port = 0

    def start(self) -> None:
        argv = [sys.executable, APPLIANCE, self.folder, str(self.port)]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class TestAppliance(BackendConformance):
    """An appliance, and two nodes."""

    entry_point = "appliance"
    lost_capacity = 0
    # A step is a request and its answer, or a part of them, so most are alike.
    kill_every = 7

    @pytest.fixture
    def appliance(self, tmp_path):
        appliance = Appliance(tmp_path)
        appliance.start()
        yield appliance
        appliance.stop()

    @pytest.fixture
    def make_backend(self, appliance):
        settings = ApplianceBackend.Settings(url=f"http://127.0.0.1:{appliance.port}")
        return lambda context: ApplianceBackend(settings, context)

    @pytest.fixture
    def break_storage(self, appliance):
        @contextlib.contextmanager
        def down():
            appliance.stop()
            try:
                yield
            finally:
                appliance.start()

        return down

    @pytest.fixture
    def break_disk(self, appliance):
        folder = appliance.folder

        @contextlib.contextmanager
        def lost(volume):
            (image,) = folder.glob(f"{volume.id.name}.*.img")
            image.rename(folder / "lost")
            try:
                yield
            finally:
                (folder / "lost").rename(image)

        return lost
