"""Asks Kata's own code about what the driver leaves, and the driver about what Kata's code leaves.

`tests/host/test_kata_compat.py` runs this where /run is empty and private, for Kata's code knows one root of
records. Each part prints its name when everything in it was as it should be.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_source import ROOT
from kata_vectors import Asked
from katacsi.csi.client import Client
from katacsi.directvolume.kata_runtime import KataRuntimeHandover
from katacsi.directvolume.names import entry_name
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.directvolume.writer import DirectVolumeWriter
from support.driver import Driver
from support.lifecycle import Life

if TYPE_CHECKING:
    from collections.abc import Mapping

TARGET = "/var/lib/kubelet/pods/0a1b/volumes/kubernetes.io~csi/pvc-é日/mount"
ODD = "/dev/mapper/vg-a--b<&>\u2028\u2029'\"\\\t\x7fé日😀"
RECORDS = [
    DirectVolumeRecord("/dev/loop8", "ext4"),
    DirectVolumeRecord("/dev/loop8", "xfs", ("ro", "nouuid")),
    DirectVolumeRecord("/dev/loop8", "ext4", ("noatime", 'context="a:b:c:s0:c1,c2"')),
    DirectVolumeRecord("/dev/loop8", "ext4", (), 1000, "OnRootMismatch"),
    DirectVolumeRecord(ODD, "ext4", ("noatime",), 4294967295, "Always"),
]
#: Enough for a torn file, or a name that is no sandbox, to be seen if there ever were one.
REPLACEMENTS = 200


def fields(record: DirectVolumeRecord) -> dict[str, Any]:
    """Give a record as Kata's packages tell it."""
    texts = {"volume-type": record.volume_type, "device": record.device, "fstype": record.fs_type}
    more = {"metadata": record.metadata, "options": list(record.options)}
    return texts | {key: value for key, value in more.items() if value}


class Compared:
    """The driver's writer and Kata's two packages, on one root."""

    def __init__(self, programs: Mapping[str, str]) -> None:
        self.both = {name: Asked(program) for name, program in programs.items()}
        self.go, self.rust = self.both["go"], self.both["rust"]

    def assert_read(self, target: str, wanted: dict[str, Any]) -> None:
        """Both packages read it, and read the same."""
        for name, ask in self.both.items():
            answer = ask({"do": "read", "path": target})
            assert answer == {"ok": True, "record": wanted}, f"{name}: {answer}, not {wanted}"
            assert ask({"do": "mounted", "path": target}) == {"ok": True, "mounted": True}, name

    def assert_absent(self, target: str) -> None:
        """Neither finds anything."""
        for name, ask in self.both.items():
            assert not ask({"do": "read", "path": target})["ok"], name
            assert not ask({"do": "mounted", "path": target}).get("mounted"), name

    async def written(self, writer: DirectVolumeWriter) -> None:
        """What we write both read; what either writes we read, and do not write again."""
        for record in RECORDS:
            await writer.add(TARGET, record)
            self.assert_read(TARGET, fields(record))
            assert await writer.remove(TARGET)
            self.assert_absent(TARGET)
            for ask, text in ((self.go, None), (self.rust, record.to_json())):
                await self._written_by(ask, writer, record, text)

    async def _written_by(
        self, ask: Asked, writer: DirectVolumeWriter, record: DirectVolumeRecord, text: bytes | None
    ) -> None:
        if text is None:
            assert ask({"do": "write", "path": TARGET, "record": fields(record)})["ok"]
        else:
            assert add(ask, TARGET, text)["ok"]
        assert await writer.read(TARGET) == record
        if text is None:  # Go writes the very bytes that we would
            before = record_file(TARGET).stat()
            await writer.add(TARGET, record)
            assert record_file(TARGET).stat() == before
        assert await writer.remove(TARGET)

    async def removed(self, writer: DirectVolumeWriter) -> None:
        """Go removes what we wrote, and nothing else."""
        await writer.add(TARGET, RECORDS[0])
        await writer.add("/other", RECORDS[1])
        for _ in range(2):
            assert self.go({"do": "remove", "path": TARGET})["ok"]
        assert not await writer.remove(TARGET)
        assert [path.name for path in ROOT.iterdir()] == [entry_name("/other")]
        assert await writer.remove("/other")
        assert not list(ROOT.iterdir())

    async def sandboxes(self, writer: DirectVolumeWriter) -> None:
        """The ids that Go records are found, stay with a record that is replaced, and go with it."""
        assert not self.go({"do": "record-sandbox", "path": TARGET, "sandbox": "a"})["ok"]
        await writer.add(TARGET, RECORDS[0])
        assert not self.go({"do": "find-sandbox", "path": TARGET})["ok"]
        for sandbox in ("b", "a"):
            assert self.go({"do": "record-sandbox", "path": TARGET, "sandbox": sandbox})["ok"]
        for record in RECORDS[:2]:
            await writer.add(TARGET, record)
            assert self.go({"do": "find-sandbox", "path": TARGET}) == {"ok": True, "sandbox": "a"}
            assert writer.sandbox_ids(TARGET) == ["a", "b"]
        (entry,) = await writer.listing()
        assert (entry.target, entry.sandbox_ids, entry.record) == (TARGET, ("a", "b"), RECORDS[1])
        assert await writer.remove(TARGET)
        self.assert_absent(TARGET)

    async def whole(self, writer: DirectVolumeWriter) -> None:
        """However often a record is replaced, both read one or the other, and no other name is there."""
        await writer.add(TARGET, RECORDS[0])
        replaced = asyncio.create_task(self._replaced(writer))
        looks = 0
        while not replaced.done() or not looks:
            answers = [
                await asyncio.to_thread(ask, {"do": "read", "path": TARGET}) for ask in self.both.values()
            ]
            assert all(answer.get("record") in [fields(record) for record in RECORDS] for answer in answers)
            assert not (await asyncio.to_thread(self.go, {"do": "find-sandbox", "path": TARGET}))["ok"]
            looks += 1
        await replaced
        await writer.remove(TARGET)

    async def _replaced(self, writer: DirectVolumeWriter) -> None:
        for number in range(REPLACEMENTS):
            await writer.add(TARGET, RECORDS[number % len(RECORDS)])

    async def served(self, scratch: Path, settings: dict[str, Any]) -> None:
        """The record of a volume that `katacsi serve` publishes is read by both; unpublished it is gone."""
        scratch.mkdir()
        with Driver(scratch, settings={"direct_volume_root": str(ROOT), **settings}) as driver:
            async with Client(driver.socket) as client:
                await client.wait_ready(20)
                await self._published(Serving(client, scratch))

    async def _published(self, node: Serving) -> None:
        life = Life(node, "vol", "direct", "ext4", mount_group="1234", mount_flags=("noatime",))
        await life.create()
        await life.stage()
        for _ in range(2):
            await life.publish()
        record = DirectVolumeRecord(str(life.device()), "ext4", ("noatime",), 1234, "OnRootMismatch")
        self.assert_read(str(life.target), fields(record))
        for _ in range(2):
            await life.unpublish()
        self.assert_absent(str(life.target))
        await life.unstage()
        await life.delete()


@dataclass
class Serving:
    """What a `Life` asks of a driver."""

    client: Client
    scratch: Path

    def __post_init__(self) -> None:
        self.pool, self.pods, self.staging = (self.scratch / name for name in ("pool", "pods", "staging"))
        for folder in (self.pods, self.staging):
            folder.mkdir()


def add(ask: Asked, target: str, text: bytes) -> dict[str, Any]:
    """Have a package add a record."""
    return ask({"do": "add", "path": target, "text": base64.b64encode(text).decode()})


def record_file(target: str) -> Path:
    """Give the file of a target's record."""
    return ROOT / entry_name(target) / "mountInfo.json"


def kata_runtime_needs(folder: Path) -> Path:
    """Give `kata-runtime` a system log, without which it ends, and the shortest configuration it takes."""
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.bind("/run/log")
    threading.Thread(target=lambda: [log.recv(65536) for _ in iter(int, 1)], daemon=True).start()
    configuration = folder / "configuration.toml"
    configuration.write_text("[hypervisor.remote]\n[agent.kata]\n[runtime]\n")
    return configuration


async def main(scratch: Path, go: str, rust: str, kata_runtime: str) -> None:
    """Compare everything."""
    compared = Compared({"go": go, "rust": rust})
    writer = DirectVolumeWriter(ROOT)
    configuration = kata_runtime_needs(scratch)
    command = KataRuntimeHandover(ROOT, kata_runtime, configuration)
    by_command = DirectVolumeWriter(ROOT, handover=command)
    settings = {
        "direct_volume": {
            "handover": "kata-runtime",
            "kata_runtime": kata_runtime,
            "kata_config": str(configuration),
        }
    }
    for name, part in {
        "written": partial(compared.written, writer),
        "removed": partial(compared.removed, writer),
        "sandboxes": partial(compared.sandboxes, writer),
        "whole": partial(compared.whole, writer),
        "served": partial(compared.served, scratch / "file", {}),
        "proved": command.prove,
        "written-by-kata-runtime": partial(compared.written, by_command),
        "removed-by-kata-runtime": partial(compared.removed, by_command),
        "sandboxes-with-kata-runtime": partial(compared.sandboxes, by_command),
        "served-with-kata-runtime": partial(compared.served, scratch / "kata-runtime", settings),
    }.items():
        await part()
        print(name, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
