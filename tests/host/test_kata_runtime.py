"""Kata's own `kata-runtime`, where there is one: no registry serves the program, so its path is given.

KATACSI_TEST_KATA_RUNTIME=/opt/kata/bin/kata-runtime make test TIER=host ARGS="-k kata_runtime"
"""

import os
import shlex
import socket
import threading
from pathlib import Path

import pytest

from katacsi.directvolume.kata_runtime import KataRuntimeHandover
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.directvolume.writer import DirectVolumeWriter
from support import kata_vectors

VARIABLE = "KATACSI_TEST_KATA_RUNTIME"
TARGET = "/var/lib/kubelet/pods/0a1b/volumes/kubernetes.io~csi/pvc-é日/mount"
RECORDS = [
    DirectVolumeRecord("/dev/loop8", "ext4"),
    DirectVolumeRecord("/dev/loop8", "xfs", ("ro", "nouuid")),
    DirectVolumeRecord("/dev/vg/a<&>\u2028'\"\\\té😀", "ext4", ('context="a:b:c:s0:c1"',), 1000, "Always"),
]
#: The shortest configuration that the command takes.
CONFIGURATION = "[hypervisor.remote]\n[agent.kata]\n[runtime]\n"
#: The command knows one root and needs a system log: it gets both on a /run of its own.
WRAPPER = """\
#!/bin/sh
exec unshare --mount --propagation private sh -c '
    mount -t tmpfs -o mode=0755 tmpfs /run && mkdir -p /run/kata-containers/shared && : > /run/log &&
    mount --bind {folder}/shared /run/kata-containers/shared && mount --bind {folder}/log /run/log &&
    exec "$@"' sh {program} "$@"
"""


@pytest.fixture
def root(scratch):
    """The command's root of records, as the driver sees it; there is none before the first."""
    (scratch / "shared").mkdir()
    return scratch / "shared" / "direct-volumes"


@pytest.fixture
def kata_runtime(scratch, root):
    """Give a command that runs the real one on that root."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(f"{VARIABLE} names no kata-runtime, and no registry serves the program")
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.bind(str(scratch / "log"))
    threading.Thread(target=lambda: [log.recv(65536) for _ in iter(int, 1)], daemon=True).start()
    (scratch / "configuration.toml").write_text(CONFIGURATION)
    wrapper = scratch / "kata-runtime"
    program = shlex.join([str(Path(named).resolve(strict=True))])
    wrapper.write_text(WRAPPER.format(folder=scratch, program=program))
    wrapper.chmod(0o755)
    return wrapper


def test_the_real_command_still_does_what_the_vectors_say(kata_runtime, root):
    """So the stand-in, which is held to the same vectors, stands for this version too."""
    for story in kata_vectors.BY_COMMAND:
        words = [str(kata_runtime), "--kata-config", str(kata_runtime.with_name("configuration.toml"))]
        assert kata_vectors.told(story, words, root) == story["go"], story["why"]


async def test_records_are_handed_over_by_the_real_command(kata_runtime, root):
    """Written byte for byte as katacsi would, replaced, read back, and removed; ids of sandboxes stay."""
    configuration = kata_runtime.with_name("configuration.toml")
    handover = KataRuntimeHandover(root, str(kata_runtime), configuration)
    await handover.prove()
    writer = DirectVolumeWriter(root, handover=handover)
    for record in RECORDS:
        writer.add(TARGET, record)
        (entry,) = root.iterdir()
        assert (entry / "mountInfo.json").read_bytes() == record.to_json()
        assert writer.read(TARGET) == record
        (entry / "aa").touch()
        writer.add(TARGET, record)
        assert writer.sandbox_ids(TARGET) == ["aa"]
        assert writer.remove(TARGET)
        assert not writer.remove(TARGET)
    assert list(root.iterdir()) == []
