"""What is said of Kata's configurations: from the text of a file to the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from katacsi.doctor import examine, kataconfig
from katacsi.doctor.kata import Kata
from katacsi.doctor.kernel import Kernel
from katacsi.doctor.node import Node
from katacsi.findings import Harm, Unread, Verdict
from katacsi.settings import Settings

FILE = "/opt/kata/share/configuration-qemu.toml"
GO = "[hypervisor.qemu]\n"
RUST = '[runtime]\nname = "virt_container"\nhypervisor_name = "qemu"\n[hypervisor.qemu]\n'
CLH = '[runtime]\nname = "virt_container"\nhypervisor_name = "clh"\n[hypervisor.clh]\n'
FIRECRACKER = "[hypervisor.firecracker]\n"
REMOTE = "[hypervisor.remote]\n"

OK, NOTE, WARNING, FAILURE, UNKNOWN = Verdict


def configured(text, *, version="4.1.0", drop_ins=(), used=True):
    """A configuration as the collector hands it over."""
    one = kataconfig.parsed(FILE, text, drop_ins)
    return replace(one, version=version, handlers=("kata-qemu",) if used else ())


def judged(check_id, text, *, settings=None, kernel=None, **how):
    """The only result of a check over one configuration; `None`: it has nothing to say."""
    check = next(check for check in examine.CHECKS if check.id == check_id)
    node = Node(
        kata=Kata(configurations=(configured(text, **how),)), settings=settings, kernel=kernel or Kernel()
    )
    results = list(check.judge(node))
    assert len(results) <= 1
    return results[0] if results else None


@pytest.mark.parametrize(
    ("check_id", "text", "expected"),
    [
        ("kata-block-device-use", GO + "disable_block_device_use = true", FAILURE),
        ("kata-block-device-use", GO + "disable_block_device_use = false", OK),
        # The value in Kata's own files is written out; without the key, Go's zero value counts.
        ("kata-block-device-use", GO, OK),
        ("kata-block-device-use", GO + 'disable_block_device_use = "no"', FAILURE),
        ("kata-block-device-use", RUST + "disable_block_device_use = true", FAILURE),
        ("kata-block-device-use", RUST, OK),
        ("kata-block-device-use", FIRECRACKER + "disable_block_device_use = true", OK),
        ("kata-rootless", GO, OK),
        ("kata-rootless", GO + "rootless = true", FAILURE),
        ("kata-rootless", RUST + "rootless = true", FAILURE),
        ("kata-hypervisor", GO, None),
        ("kata-hypervisor", REMOTE, FAILURE),
        ("kata-flushes", GO, OK),
        ("kata-flushes", GO + "block_device_cache_set = true\nblock_device_cache_noflush = true", FAILURE),
        ("kata-flushes", GO + "block_device_cache_noflush = true", WARNING),
        ("kata-flushes", RUST + "block_device_cache_set = true\nblock_device_cache_noflush = true", WARNING),
        ("kata-block-device-cache", GO + "block_device_cache_set = true", NOTE),
        ("kata-block-device-cache", RUST + "block_device_cache_set = true", OK),
        ("kata-block-device-aio", GO, OK),
        ("kata-block-device-aio", RUST, WARNING),
        ("kata-block-device-aio", RUST + 'block_device_aio = "threads"', OK),
        ("kata-block-device-aio", CLH, None),
        ("kata-block-device-aio", GO + 'block_device_aio = "native"', FAILURE),
        (
            "kata-block-device-aio",
            GO + 'block_device_aio = "native"\nblock_device_cache_direct = true',
            FAILURE,
        ),
        ("kata-block-device-aio", RUST + 'block_device_aio = "native"', FAILURE),
        ("kata-block-device-aio", RUST + 'block_device_aio = "native"\nblock_device_cache_direct = true', OK),
        (
            "kata-block-device-aio",
            GO
            + 'block_device_aio = "native"\nblock_device_cache_set = true\nblock_device_cache_direct = true',
            OK,
        ),
        ("kata-block-device-driver", GO, OK),
        ("kata-block-device-driver", GO + 'block_device_driver = "virtio-scsi"', OK),
        ("kata-block-device-driver", GO + 'block_device_driver = "virtio-blk-pci"', FAILURE),
        ("kata-block-device-driver", RUST + 'block_device_driver = "virtio-blk-pci"', OK),
        ("kata-block-device-driver", RUST + 'block_device_driver = "virtio-blk"', FAILURE),
        ("kata-block-device-driver", GO + 'block_device_driver = "nvdimm"', WARNING),
        ("kata-block-device-driver", RUST + 'block_device_driver = "virtio-pmem"', WARNING),
        ("kata-sparse-files", CLH, NOTE),
        ("kata-sparse-files", RUST, None),
        ("kata-emptydir", GO, None),
        ("kata-emptydir", GO + '[runtime]\nemptydir_mode = "block-encrypted"', NOTE),
        ("kata-confidential", GO + "confidential_guest = false", None),
        ("kata-confidential", GO + "confidential_guest = true", WARNING),
        ("kata-confidential", GO + '[runtime]\nemptydir_mode = "block-encrypted"', WARNING),
        ("kata-configuration", GO, OK),
        ("kata-configuration", "[hypervisor.qemu", FAILURE),
        ("kata-configuration", "", FAILURE),
    ],
)
def test_verdict_of_a_configuration(check_id, text, expected):
    """Each key, in each runtime, with and without a value."""
    result = judged(check_id, text)
    assert (result.verdict if result else None) is expected
    if result and expected in {FAILURE, WARNING}:
        assert result.remedy


@pytest.mark.parametrize(
    ("text", "version", "expected"),
    [
        (GO, "2.4.3", FAILURE),
        (GO, "2.5.0", OK),
        (GO, "3.26.0", OK),
        (RUST, "3.30.0", WARNING),
        (RUST, "4.0.0", WARNING),
        (RUST, "4.1.0", OK),
        (RUST, "4.1.0-rc0", OK),
        (GO, "", UNKNOWN),
        (GO, "main", UNKNOWN),
    ],
)
def test_verdict_of_a_version(text, version, expected):
    """The oldest versions that can do what katacsi hands over."""
    assert judged("kata-version", text, version=version).verdict is expected


def test_an_unknown_version_is_no_alarm():
    """Everything older than 2.5 is years old; what is not known is said, and does not fail a node."""
    assert judged("kata-version", GO, version="").harm is Harm.NONE


def test_old_cloud_hypervisor_keeps_files_sparse():
    """The bug came with 4.0."""
    assert judged("kata-sparse-files", CLH, version="3.30.0") is None


@pytest.mark.parametrize(
    ("disabled", "text", "expected"),
    [
        (None, GO, OK),
        (0, GO, OK),
        (1, GO, OK),
        (1, GO + "rootless = true", FAILURE),
        (2, GO, FAILURE),
        (2, RUST, FAILURE),
        (2, GO + 'block_device_aio = "threads"', OK),
        (Unread("denied"), GO, UNKNOWN),
    ],
)
def test_io_uring_needs_the_kernel(disabled, text, expected):
    """QEMU's default fails every device where the kernel forbids it."""
    kernel = Kernel(io_uring_disabled=disabled)
    assert judged("kata-block-device-aio", text, kernel=kernel).verdict is expected


def test_an_empty_engine_is_io_uring():
    """Both runtimes put their default in its place."""
    kernel = Kernel(io_uring_disabled=2)
    assert judged("kata-block-device-aio", GO + 'block_device_aio = ""', kernel=kernel).verdict is FAILURE


def test_rootless_with_a_root_of_ones_own():
    """Whoever has pointed katacsi at the user's folder knows."""
    settings = Settings(direct_volume_root="/run/user/1000/kata-containers/shared/direct-volumes")
    assert judged("kata-rootless", RUST + "rootless = true", settings=settings).verdict is WARNING


def test_what_no_handler_uses_breaks_nothing():
    """A file that no pod meets is a warning at most."""
    result = judged("kata-block-device-use", GO + "disable_block_device_use = true", used=False)
    assert result.verdict is WARNING
    assert "no handler uses it" in result.fact


def test_a_drop_in_wins_and_is_named():
    """The last file counts, and is the one to change."""
    drop_ins = [
        ("/d/10-a.toml", GO + "disable_block_device_use = false"),
        ("/d/50-b.toml", GO + "disable_block_device_use = true"),
    ]
    result = judged("kata-block-device-use", GO, drop_ins=drop_ins)
    assert result.verdict is FAILURE
    assert result.fact == "/d/50-b.toml: [hypervisor.qemu] disable_block_device_use = true"


def test_a_drop_in_that_is_torn_fails_the_configuration():
    """Kata reads all of them or none."""
    result = judged("kata-configuration", GO, drop_ins=[("/d/10-a.toml", "[hyper")])
    assert result.verdict is FAILURE
    assert "/d/10-a.toml" in result.fact


DROP_IN = "/d/60-own.toml"


@pytest.mark.parametrize(
    ("main", "drop_in", "refused"),
    [
        # As real shims of 4.1.0 answered: the key is the other runtime's, or nobody's.
        (RUST, "[agent.kata]\ndial_timeout = 60", f"{DROP_IN}: [agent.kata] dial_timeout"),
        (GO, "[agent.kata]\nno_such_key = 1", f"{DROP_IN}: [agent.kata] no_such_key"),
        (GO, GO + "no_such_key = 1", f"{DROP_IN}: [hypervisor.qemu] no_such_key"),
        (GO, GO + "Rootless = true", f"{DROP_IN}: [hypervisor.qemu] Rootless"),
        (RUST + "[agent.kata]\ndial_timeout = 60", "", f"{FILE}: [agent.kata] dial_timeout"),
        (RUST + "[agent.kata.mem_agent]\nno = 1", "", f"{FILE}: [agent.kata.mem_agent] no"),
        (
            RUST + '[[runtime.shared_mounts]]\nname = "a"\nsource = "b"',
            "",
            f"{FILE}: [runtime.shared_mounts] source",
        ),
        (GO, "[agent.kata]\ndial_timeout = 60", ""),
        (RUST, "[agent.kata]\ndial_timeout_ms = 60\n[agent.kata.mem_agent]\nenable = true", ""),
        # Read from the sources: the Go runtime looks for what is left over in drop-ins only, and in these
        # sections; runtime-rs passes over what it does not know of a hypervisor.
        (GO + "no_such_key = 1", "", ""),
        (GO, "[runtime]\nno_such_key = 1", ""),
        (RUST, GO + "no_such_key = 1", ""),
    ],
)
def test_a_key_that_the_runtime_refuses(main, drop_in, refused):
    """No pod of the handler starts with it; file and key are named. Elsewhere such a key is ignored."""
    result = judged("kata-configuration", main, drop_ins=[(DROP_IN, drop_in)] if drop_in else ())
    assert result.verdict is (FAILURE if refused else OK)
    if refused:
        assert result.fact.startswith(f"{refused}: ")
        assert result.remedy.startswith("remove it")


def test_a_key_of_the_other_runtime_names_its_own():
    """The two runtimes name one thing differently."""
    assert "dial_timeout_ms" in judged("kata-configuration", RUST + "[agent.kata]\ndial_timeout = 9").remedy


@pytest.mark.parametrize(
    ("version", "expected"), [("3.28.0", OK), ("3.29.0", WARNING), ("4.1.1", FAILURE), ("4.2.0", WARNING)]
)
def test_keys_are_those_of_one_version(version, expected):
    """Another version may know more or fewer; runtime-rs took any before 3.29."""
    text = RUST + "[agent.kata]\nno_such_key = 1"
    assert judged("kata-configuration", text, version=version).verdict is expected
    unknown_version = judged("kata-configuration", text, version="")
    assert unknown_version.verdict is WARNING


def test_a_file_that_may_not_be_read_is_unknown():
    """A permission of ours says nothing of Kata."""
    check = next(check for check in examine.CHECKS if check.id == "kata-configuration")
    one = kataconfig.KataConfiguration(FILE, problem="denied", unread=True, handlers=("kata",))
    (result,) = check.judge(Node(kata=Kata(configurations=(one,))))
    assert result.verdict is UNKNOWN
