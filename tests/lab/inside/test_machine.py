"""What the machine can do that this one may not."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

CAP_SYS_RESOURCE = 24


def test_every_capability_is_there():
    """Root has CAP_SYS_RESOURCE, which online growth of ext4 asks for."""
    effective = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)[1]
    assert int(effective, 16) >> CAP_SYS_RESOURCE & 1


def test_device_mapper_answers():
    """The kernel has the targets that LVM's volume types are made of."""
    subprocess.run(["modprobe", "-a", "dm-thin-pool", "dm-snapshot", "dm-raid"], check=True)
    said = subprocess.run(["dmsetup", "targets"], capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in said.splitlines()}
    assert targets >= {"linear", "striped", "thin-pool", "thin", "snapshot", "raid"}


def test_scratch_lies_on_a_disk(scratch):
    """Scratch folders are on a filesystem of their own, with holes and direct I/O."""
    file = scratch / "file"
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    os.truncate(handle, 1 << 30)
    os.close(handle)
    assert file.stat().st_blocks == 0
