"""Kata is found as it lies on a node: from a folder with its files to the picture."""

from __future__ import annotations

import pytest

from katacsi.doctor import kata, processes
from katacsi.doctor.hostfiles import HostFiles
from katacsi.doctor.kataconfig import Flavour
from support import kata_trees as trees


@pytest.fixture
def found(tmp_path):
    """Find Kata below the folder."""

    async def find(*asked):
        return await kata.find(HostFiles(tmp_path), asked, processes.find(HostFiles(tmp_path)))

    return find


async def test_kata_deploy(tmp_path, found):
    """The handlers of the imported file lead to a configuration of each runtime; others are named only."""
    trees.deployed(tmp_path)
    kata = await found()
    assert [(one.name, one.path, one.flavour, one.version) for one in kata.configurations] == [
        ("kata-qemu", trees.GO_FILE, Flavour.GO, "4.1.0"),
        ("kata-qemu-runtime-rs", trees.RUST_FILE, Flavour.RUST, "4.1.0"),
    ]
    assert kata.unused == (f"{trees.KATA}/configuration-fc.toml",)
    assert kata.problems == ()


async def test_drop_ins_lie_beside_the_file_that_a_link_leads_to(tmp_path, found):
    """As both runtimes resolve the link first."""
    trees.deployed(tmp_path)
    drop_in = f"{trees.KATA}/runtimes/qemu/config.d/50-own.toml"
    trees.write(tmp_path, drop_in, "[hypervisor.qemu]\ndisable_block_device_use = false\n")
    trees.write(tmp_path, f"{trees.KATA}/config.d/99-not-read.toml", "[hypervisor.qemu\n")
    kata = await found(f"{trees.KATA}/configuration.toml")
    setting = kata.configurations[0].setting("disable_block_device_use", None)
    assert (setting.value, setting.file) == (False, drop_in)
    assert kata.configurations[0].asked_for


async def test_a_folder_among_the_drop_ins(tmp_path, found):
    """Kata fails on it, so it is no permission of ours."""
    trees.deployed(tmp_path)
    (tmp_path / f"{trees.KATA}/runtimes/qemu/config.d/old".lstrip("/")).mkdir(parents=True)
    kata = await found()
    assert "config.d/old" in kata.configurations[0].problem
    assert not kata.configurations[0].unread


async def test_crio(tmp_path, found):
    """CRI-O's handlers count as well."""
    trees.write(tmp_path, "/etc/crio/crio.conf.d/99-kata-deploy", trees.CRIO)
    trees.write(tmp_path, "/etc/kata-containers/runtime-rs/configuration.toml", trees.RUST_CLH)
    kata = await found()
    assert [handler.name for handler in kata.handlers] == ["kata-clh"]
    assert [(one.hypervisor, one.flavour) for one in kata.configurations] == [("clh", Flavour.RUST)]


async def test_a_handler_whose_configuration_is_missing(tmp_path, found):
    """It is known to be missing."""
    trees.deployed(tmp_path)
    (tmp_path / trees.GO_FILE.lstrip("/")).unlink()
    kata = await found()
    assert [handler.configuration_there for handler in kata.handlers] == [False, True]


async def test_a_handler_that_names_no_configuration(tmp_path, found):
    """Its shim takes the first of its default places that is there."""
    trees.write(tmp_path, "/etc/containerd/config.toml", trees.containerd_v2("kata", "io.containerd.kata.v2"))
    trees.write(tmp_path, "/usr/share/defaults/kata-containers/configuration.toml", trees.GO_QEMU)
    kata = await found()
    (one,) = kata.configurations
    assert (one.handlers, one.path) == (("kata",), "/usr/share/defaults/kata-containers/configuration.toml")


async def test_a_wrapper_script_names_the_configuration(tmp_path, found):
    """Older installers give each shim a script."""
    trees.write(
        tmp_path, "/etc/containerd/config.toml", trees.containerd_v2("kata-fc", "io.containerd.kata-fc.v2")
    )
    script = (
        "#!/usr/bin/env bash\nKATA_CONF_FILE=/opt/kata/fc.toml /opt/kata/bin/containerd-shim-kata-v2 $@\n"
    )
    trees.write(tmp_path, "/usr/local/bin/containerd-shim-kata-fc-v2", script, 0o644)
    trees.write(tmp_path, "/opt/kata/fc.toml", "[hypervisor.firecracker]\n")
    assert [one.path for one in (await found()).configurations] == ["/opt/kata/fc.toml"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            'Kata containerd shim (Golang): id: "io.containerd.kata.v2", version: 3.2.0, commit: a',
            "3.2.0",
        ),
        (
            "Kata containerd shim (Rust): id: io.containerd.kata.v2, version: 4.1.0, commit: b",
            "4.1.0",
        ),
    ],
)
async def test_the_shim_says_its_version(tmp_path, found, said, expected):
    """Where no file beside it does."""
    trees.deployed(tmp_path)
    (tmp_path / "opt/kata/VERSION").unlink()
    trees.shim(tmp_path, "/opt/kata/bin/containerd-shim-kata-v2", said)
    assert (await found()).configurations[0].version == expected


async def test_a_shim_that_cannot_be_asked(tmp_path, found):
    """The version is not known, and the reason is."""
    trees.deployed(tmp_path)
    (tmp_path / "opt/kata/VERSION").unlink()
    trees.shim(tmp_path, "/opt/kata/bin/containerd-shim-kata-v2", "usage: shim")
    one = (await found()).configurations[0]
    assert (one.version, one.version_problem) == (
        "",
        "/opt/kata/bin/containerd-shim-kata-v2 --version: names no version",
    )


async def test_without_handlers_the_default_is_judged(tmp_path, found):
    """What a shim takes that is told nothing; the others are many, and nobody uses them."""
    trees.deployed(tmp_path)
    (tmp_path / "etc/containerd/config.toml").unlink()
    kata = await found()
    assert [(one.path, one.handlers) for one in kata.configurations] == [(trees.GO_FILE, ())]


async def test_a_runtime_s_configuration_that_is_torn(tmp_path, found):
    """It is said, since handlers may be in it."""
    trees.write(tmp_path, "/etc/containerd/config.toml", "version = ")
    (problem,) = (await found()).problems
    assert problem.startswith("/etc/containerd/config.toml: is not TOML")


async def test_drop_ins_that_are_symlinks(tmp_path, found):
    """As a mounted ConfigMap has them: the Go runtime follows them, runtime-rs fails the pod."""
    trees.deployed(tmp_path)
    trees.write(tmp_path, "/etc/drop-in.toml", "[hypervisor.qemu]\nrootless = true\n")
    for file in (trees.GO_FILE, trees.RUST_FILE):
        folder = (tmp_path / file.lstrip("/")).parent / "config.d"
        folder.mkdir(exist_ok=True)
        (folder / "60-mounted.toml").symlink_to("/etc/drop-in.toml")
    go, rust = (await found()).configurations
    assert (go.problem, go.setting("rootless", default=False).value) == ("", True)
    assert rust.problem.endswith("60-mounted.toml: is a symlink, which runtime-rs refuses in config.d")


async def test_conf_d_counts_when_it_is_imported(tmp_path, found):
    """containerd follows the imports of files only; those that it has by default it never looks up."""
    handler = trees.containerd_v2("kata-late", "io.containerd.kata.v2")
    trees.write(tmp_path, "/etc/containerd/conf.d/kata.toml", handler)
    assert (await found()).handlers == ()
    trees.write(tmp_path, "/etc/containerd/config.toml", "version = 2\n")
    assert (await found()).handlers == ()
    trees.write(tmp_path, "/etc/containerd/config.toml", 'imports = ["/etc/containerd/conf.d/*.toml"]\n')
    assert [one.name for one in (await found()).handlers] == ["kata-late"]


async def test_a_node_without_kata(found):
    """There is nothing, and no complaint about it."""
    kata = await found()
    assert (kata.configurations, kata.handlers, kata.problems) == ((), (), ())


def test_files_of_the_kernel_are_read():
    """A file of /proc/sys refuses a large read; that would make everything about it unknown."""
    assert HostFiles().text("/proc/sys/kernel/ostype") == "Linux\n"


def test_links_stay_below_the_root(tmp_path):
    """An absolute link of the node leads below the folder, a circle is an error, not a hang."""
    files = HostFiles(tmp_path)
    trees.write(tmp_path, "/opt/real", "node's")
    (tmp_path / "link").symlink_to("/opt/real")
    (tmp_path / "climbing").symlink_to("../../../../opt/real")
    (tmp_path / "circle").symlink_to("/circle")
    assert (files.text("/link"), files.text("/climbing")) == ("node's", "node's")
    assert "symbolic links" in files.text("/circle").reason
    assert files.text("/absent") is None
