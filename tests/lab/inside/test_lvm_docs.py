"""The commands and the settings of docs/lvm.md, run in the page's order, do what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from katacsi.backends.api import PoolContext
from katacsi.backends.lvm import LvmBackend
from katacsi.model import MIB
from support.lvm_pools import read, request, settled, write
from support.real_lvm import pull, pullable, run

UDEV = False

PAGE = Path(__file__).resolve().parents[3] / "docs" / "lvm.md"
#: The page's disks, and its sizes, which are no lab's.
SIZES = {"100G": "200M", "+1G": "+8M"}


def section(title):
    """Give the part of the page below a heading."""
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]


def commands(title):
    """Give the commands of a section: those of its plain blocks, then those within its sentences."""
    text = section(title)
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:lv|vg)\w+ [^`]*\bdata\b[^`]*)`", text)
    return [line for block in blocks for line in block.splitlines()] + inline


def obey(title, disks):
    """Run the commands of a section."""
    told = commands(title)
    for line in told:
        words = [disks.get(word, SIZES.get(word, word)) for word in shlex.split(line)]
        run(words[0], "--yes", *words[1:])
    return [line.split()[0] for line in told]


def parameters(title):
    """Give the StorageClass parameters of a section."""
    text = re.search(r"^```\nparameters:\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)[1]
    return {key.removeprefix("lvm.katacsi.io/"): value for key, value in yaml.safe_load(text).items()}


def pool(title):
    """Give the pool that a section configures."""
    text = re.search(r"^```yaml\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)[1]
    settings = yaml.safe_load(text)["pools"]["default"]
    assert settings.pop("backend") == "lvm"
    return LvmBackend(LvmBackend.Settings(**settings), PoolContext("default", "test.katacsi.io", "node-1"))


async def test_the_page_of_the_lvm_backend(disks):
    """A group is prepared, a thin pool added, a disk lost and replaced: each command as it is on the page."""
    with pullable(disks[0]) as doomed:
        letters = {"/dev/sdb": str(doomed), "/dev/sdc": str(disks[1]), "/dev/sdd": str(disks[2])}
        assert obey("Prepare a volume group", letters) == ["vgcreate", "vgchange"]
        plain = thin = None
        try:
            plain = pool("Prepare a volume group")
            await plain.start()
            volume = await plain.create(request("pvc-1", 32 * MIB, **parameters("Thick volumes and RAID")))
            await write(plain, volume, b"kept")
            await plain.close()
            assert obey("Thin pools", letters) == ["lvcreate", "lvextend"]
            thin = pool("Thin pools")
            await thin.start()
            small = await thin.create(request("pvc-2", 32 * MIB))
            await write(thin, small, b"thin")
            assert await read(thin, small, 4) == b"thin"
            await thin.delete(small.id)
            run("lvremove", "--yes", "data/thin")
            await thin.attach(volume.id, {}, {})
            pull(doomed)
            thin._group._known = None
            assert (await thin.condition(volume.id)).abnormal
            # The page lists what brings a disk back last, for another case than that of a new disk.
            assert obey("Replacing a disk", letters) == ["vgextend", "lvconvert", "vgreduce", "lvchange"]
            thin._group._known = None
            await settled(
                lambda: run("lvs", "--noheadings", "-o", "sync_percent", "data/kv-pvc-1").strip() == "100.00"
            )
            assert not (await thin.condition(volume.id)).abnormal
            await thin.detach(volume.id)
            assert await read(thin, volume, 4) == b"kept"
        finally:
            for started in (plain, thin):
                if started is not None:
                    await started.close()
            run("vgremove", "--force", "--yes", "data")
