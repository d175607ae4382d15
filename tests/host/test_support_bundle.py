"""`katacsi support-bundle` beside a real driver whose volumes are in use, and beside a broken pool."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from katacsi.csi.client import Client
from katacsi.testing import leaks
from katacsi.testing.kubelet import Volume
from katacsi.testing.process import ServeProcess

if TYPE_CHECKING:
    from pathlib import Path

#: Each planted in one place; no file of a bundle has any of them.
PLANTED = {
    "stage secret": "PLANTED-stage-secret",
    "publish context": "PLANTED-publish-context",
    "file content": "PLANTED-file-content",
    "file name": "PLANTED-file-name",
    "record of others": "PLANTED-record-of-others",
}
HOST = {"katacsi.io/direct": "false"}


def run(driver: ServeProcess, *words: object) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "katacsi", "support-bundle", "--config", driver.config, *words]
    return subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        check=False,
        cwd=driver.config.parent,
        env={**os.environ, "NODE_ID": "node/1"},
    )


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        assert {(member.mode, member.isfile()) for member in members} == {(0o600, True)}
        return {member.name.partition("/")[2]: archive.extractfile(member).read() for member in members}


@pytest.fixture
def driver(scratch):
    """A driver with metrics on a port that the configuration names."""
    with asyncio.Runner() as runner:
        server = runner.run(asyncio.start_server(lambda *_: None, "127.0.0.1", 0))
        port = server.sockets[0].getsockname()[1]
        server.close()
    with ServeProcess(scratch, settings={"metrics": {"address": f"127.0.0.1:{port}"}}) as driver:
        yield driver


def plant_a_record_of_others(driver: ServeProcess, target: Path) -> None:
    target.mkdir()
    entry = driver.records / base64.urlsafe_b64encode(os.fsencode(target)).decode()
    entry.mkdir(parents=True)
    word = PLANTED["record of others"]
    record = {
        "volume-type": "directvol",
        "device": f"/dev/{word}",
        "fstype": "ext4",
        "metadata": {word: word},
    }
    (entry / "mountInfo.json").write_text(json.dumps(record))


async def test_a_life_s_secrets_and_data_are_in_no_file(driver, scratch):
    """After a stage with secrets and a pod's writes: what helps is in the bundle, and they are not."""
    plant_a_record_of_others(driver, scratch / "others")
    async with Client(driver.socket) as client:
        direct = Volume("direct", client=client, staging=scratch / "s1", target=scratch / "p1" / "mount")
        host = Volume(
            "host", client=client, staging=scratch / "s2", target=scratch / "p2" / "mount", parameters=HOST
        )
        for volume in (direct, host):
            await volume.create()
            volume.staging.mkdir()
            request = volume.to_stage()
            request.secrets = {"key": PLANTED["stage secret"]}
            request.publish_context = {"portal": PLANTED["publish context"]}
            await client.node.node_stage_volume(request)
            volume.target.parent.mkdir()
            publication = volume.to_publish()
            publication.publish_context = request.publish_context
            await client.node.node_publish_volume(publication)
        (host.target / PLANTED["file name"]).write_text(PLANTED["file content"])
        os.sync()
        before = everything(scratch)
        answer = await asyncio.to_thread(run, driver, "-")
        assert everything(scratch) == before, "nothing was changed"
        for volume in (direct, host):
            await volume.unpublish()
            await volume.unstage()
    assert answer.returncode == 0, answer.stderr
    files = unpacked(answer.stdout)
    found = [(what, name) for what, word in PLANTED.items() for name in files if word.encode() in files[name]]
    assert found == []
    data = {name: json.loads(content) for name, content in files.items() if name.endswith(".json")}
    (pool,) = data["pools.json"]
    assert [volume["name"] for volume in pool["volumes"]] == ["direct", "host"]
    assert pool["volumes"][0]["facts"]["guest_written"] is True
    assert {mark["volume_id"] for mark in data["marks.json"]["published"]} == {
        direct.volume_id,
        host.volume_id,
    }
    assert data["marks.json"]["staged"][0]["publish_context"] == {"portal": "[redacted]"}
    assert data["records.json"]["of_others"] == 1
    assert [record["target"] for record in data["records.json"]["records"]] == [str(direct.target)]
    backing = {device["backing_file"] for device in data["devices.json"]}
    assert backing == {f"{driver.pool}/volumes/{name}/disk.img" for name in ("direct", "host")}
    mounts = files["mounts.txt"].decode()
    assert f"katacsi:{direct.volume_id}" in mounts
    assert str(host.target) in mounts
    names = {device["name"]: device["backing_file"] for device in data["devices.json"]}
    (mounted,) = (name for name, file in names.items() if "/host/" in file)
    log = files["kernel.log"].decode()
    assert mounted in log or log.startswith("Error: read /dev/kmsg"), "the kernel told of the mount"
    assert b"katacsi_published_volumes" in files["metrics.txt"]
    assert data["doctor.json"]["summary"]
    assert data["versions.json"]["tools"]["mkfs.ext4"].startswith("mke2fs")
    assert data["configuration.json"]["state_directory"] == str(scratch / "state")


def everything(folder: Path) -> dict[str, tuple]:
    return {
        str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in sorted(folder.rglob("*"))
        # For its metrics the driver tries whether the pool takes writes; a mounted filesystem writes its
        # journal when it likes.
        if path.name not in {"driver.log", "pool"} and path.parts[-2:] != ("host", "disk.img")
    }


def test_a_broken_pool_and_a_driver_that_is_down_are_what_it_is_for(driver, scratch):
    """With the pool's folder gone and nobody serving, there is a bundle that says both; exit code 0."""
    driver.stop()
    driver.pool.rename(scratch / "elsewhere")
    answer = run(driver)
    assert answer.returncode == 0
    (path,) = scratch.glob("katacsi-support-node_1-*.tar.gz")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path.name) in answer.stdout.decode()
    files = unpacked(path.read_bytes())
    assert "pool 'default'" in json.loads(files["pools.json"])[0]["error"]
    assert files["metrics.txt"].startswith(b"Error: 127.0.0.1:")
    assert re.search(r"metrics.txt +the driver's .*\n +could not be made: 127", files["README.txt"].decode())
    assert b"metrics.txt: could not be made" in answer.stderr
    assert not leaks.leaks_below(scratch)


def test_an_existing_file_is_not_overwritten(driver, scratch):
    """A FILE that is there stays as it is; exit code 1, with the remedy."""
    (scratch / "mine").write_text("mine")
    answer = run(driver, scratch / "mine")
    assert (answer.returncode, (scratch / "mine").read_text()) == (1, "mine")
    assert b"cannot be written (File exists); name another FILE, or `-`" in answer.stderr


def test_a_broken_configuration_does_not_show_what_it_quotes(driver, scratch):
    """The error of a file that is no YAML quotes its lines; a secret on them is in no file."""
    secret = "PLANTED" * 20
    driver.config.write_text(f"pools: {{}}\nchap_password: {secret}: b: c\nother: {secret[7:]}: d\n")
    answer = run(driver, "-")
    assert answer.returncode == 0
    files = unpacked(answer.stdout)
    assert [name for name, data in files.items() if b"PLANTED" in data] == []
    assert b"PLANTED" not in answer.stderr
    assert "not YAML" in json.loads(files["configuration.json"])["error"]
