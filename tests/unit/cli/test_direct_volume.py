"""`katacsi direct-volume`, the drop-in for `kata-runtime direct-volume`."""

from __future__ import annotations

import base64
import functools
import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from katacsi.cli import guests
from katacsi.directvolume.sandboxes import Sandboxes
from support.shims import Agent, AgentError, GoShim, Numbers, in_thread

TARGET = "/var/lib/kubelet/pods/p/volumes/kubernetes.io~csi/pvc-1/mount"
GOOD = '{"volume-type":"directvol","device":"/dev/vda","fstype":"ext4"}'


@pytest.fixture
def root(tmp_path):
    return tmp_path / "direct-volumes"


@pytest.fixture
def add(run, root):
    """Call `direct-volume add` for the target."""
    return lambda mount_info, target=TARGET: run(
        "direct-volume", "add", "--root", root, "--volume-path", target, "--mount-info", mount_info
    )


def file_of(root, target=TARGET):
    return root / base64.urlsafe_b64encode(target.encode()).decode() / "mountInfo.json"


def test_add_writes_what_kata_reads(add, root):
    """The record is where Kata looks, byte for byte as its own Go code writes it; nothing is printed."""
    result = add('{"volume-type":"directvol","device":"/dev/vda","fstype":"ext4","options":["noatime"]}')
    assert (result.exit_code, result.output) == (0, "")
    expected = b'{"volume-type":"directvol","device":"/dev/vda","fstype":"ext4","options":["noatime"]}'
    assert file_of(root).read_bytes() == expected


def test_add_twice_is_one_record(add, root):
    """A repeated call succeeds."""
    assert add(GOOD).exit_code == 0
    assert add(GOOD).exit_code == 0
    assert len(list(root.iterdir())) == 1


@pytest.mark.parametrize("kind", ["block", "blk"])
def test_add_mends_the_volume_type_and_says_so(add, root, kind):
    """`block` works in one runtime only; what is written works in both, and a warning tells."""
    result = add(GOOD.replace("directvol", kind))
    assert result.exit_code == 0
    assert json.loads(file_of(root).read_text())["volume-type"] == "directvol"
    assert result.stderr.startswith(f"Warning: volume-type '{kind}'")


def test_add_leaves_out_options_that_break_the_guests_mount(add, root):
    """`bind` makes the Go runtime's mount fail; the options that mean something stay, and a warning tells."""
    result = add(GOOD[:-1] + ',"options":["bind","rw","noatime","nofail"]}')
    assert result.exit_code == 0
    assert json.loads(file_of(root).read_text())["options"] == ["noatime"]
    assert "bind, rw, nofail" in result.stderr


def test_add_points_out_a_mistyped_key(add, root):
    """The keys of older documents are no error to Kata, and not read: a warning names the right one."""
    result = add(GOOD[:-1] + ',"mount_options":["ro"],"volume_type":"block"}')
    assert result.exit_code == 0
    assert "key 'mount_options' left out" in result.stderr
    assert "is 'volume-type' meant?" in result.stderr
    assert file_of(root).read_text() == GOOD


@pytest.mark.parametrize(
    ("mount_info", "named"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        (GOOD[:-1] + ',"Options":["ro"]}', 'has "Options"'),
        (GOOD + "x", "is not JSON"),
        (GOOD.replace('"fstype":"ext4"', '"fs_type":"ext4"'), 'has no "fstype"'),
        (GOOD[:-1] + ',"metadata":null}', '"metadata"'),
        (GOOD[:-1] + ',"metadata":{"fsGroup":1000}}', '"metadata"'),
        (GOOD[:-1] + ',"metadata":{"fsGroup":"0"}}', "fsGroup"),
        (GOOD[:-1] + ',"metadata":{"createFilesystem":"true"}}', "createFilesystem"),
        (GOOD[:-1] + ',"metadata":{"encryptionKey":"k"}}', "encryptionKey"),
        (GOOD[:-1] + ',"options":"ro"}', '"options"'),
        (GOOD[:-1] + ',"device":"/dev/vdb"}', 'has "device" twice'),
        (GOOD.replace("directvol", "spdkvol"), "spdkvol"),
        (GOOD.replace("/dev/vda", "vda"), "no absolute path"),
        (GOOD.replace("ext4", ""), "fstype"),
    ],
)
def test_add_refuses_what_a_runtime_would_misread(add, root, mount_info, named):
    """Exit code 1, one line that names the fact, and nothing is left where Kata looks."""
    result = add(mount_info)
    assert result.exit_code == 1
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not root.exists() or not list(root.iterdir())


@pytest.mark.parametrize(
    "target",
    ["", "relative/path", "/", "/a/../b", "/" + "x" * 189],
    ids=["empty", "relative", "root", "..", "long"],
)
@pytest.mark.parametrize("command", ["add", "remove", "show", "stats", "resize"])
def test_paths_that_kata_could_not_look_up_are_refused(run, root, command, target):
    """A bad path is exit code 1 and touches no other record; "" would be the root of all of them."""
    run("direct-volume", "add", "--root", root, "--volume-path", TARGET, "--mount-info", GOOD)
    extra = {"add": ("--mount-info", GOOD), "resize": ("--size", 1)}.get(command, ())
    result = run("direct-volume", command, "--root", root, "--volume-path", target, *extra)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: target_path")
    assert file_of(root).exists()
    assert len(list(root.iterdir())) == 1


def test_remove_takes_the_record_and_sandbox_ids(add, run, root):
    """Nothing of the entry stays, and nothing is printed."""
    add(GOOD)
    (file_of(root).parent / "sandbox-1").touch()
    result = run("direct-volume", "remove", "--root", root, "--volume-path", TARGET)
    assert (result.exit_code, result.output) == (0, "")
    assert list(root.iterdir()) == []


def test_remove_of_a_missing_record_succeeds(run, root):
    """Absent is success, also where there is no root yet."""
    assert run("direct-volume", "remove", "--root", root, "--volume-path", TARGET).exit_code == 0


def test_list_has_everybodys_records(add, run, root):
    """Records of others and torn ones are listed beside ours, with what is wrong."""
    add(GOOD)
    for name, content in (("L2E=", "{"), ("not base64!", None)):
        (root / name).mkdir()
        if content is not None:
            (root / name / "mountInfo.json").write_text(content)
    result = run("direct-volume", "list", "--root", root, "--output", "json")
    assert result.exit_code == 0
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert entries[file_of(root).parent.name]["record"] == json.loads(GOOD)
    assert entries["L2E="]["volume_path"] == "/a"
    assert "not JSON" in entries["L2E="]["problem"]
    assert "not Kata's encoding" in entries["not base64!"]["problem"]
    table = run("direct-volume", "list", "--root", root).stdout
    assert TARGET in table
    assert "not JSON" in table


def test_list_of_nothing_prints_no_row(run, root):
    """A script that reads stdout sees an empty list; a person is told on stderr."""
    result = run("direct-volume", "list", "--root", root)
    assert (result.exit_code, result.stdout) == (0, "")
    assert str(root) in result.stderr


def test_show_names_record_and_file(add, run, root):
    """What Kata would read is shown, with the file it is in."""
    add(GOOD[:-1] + ',"metadata":{"fsGroup":"1000","fsGroupChangePolicy":"OnRootMismatch"}}')
    result = run("direct-volume", "show", "--root", root, "--volume-path", TARGET, "-o", "json")
    shown = json.loads(result.stdout)
    assert shown["record"]["metadata"] == {"fsGroup": "1000", "fsGroupChangePolicy": "OnRootMismatch"}
    assert shown["file"] == str(file_of(root))
    assert shown["sandboxes"] == []


def test_show_of_a_missing_record_is_exit_code_1(run, root):
    """Absent is an error here, unlike for remove: there is nothing to show."""
    result = run("direct-volume", "show", "--root", root, "--volume-path", TARGET)
    assert result.exit_code == 1
    assert "has no record" in result.stderr


def test_the_root_comes_from_a_configuration(add, run, root, tmp_path):
    """With --config the records are those of the driver."""
    add(GOOD)
    config = tmp_path / "c.yaml"
    config.write_text(f"direct_volume_root: {root}\n")
    assert TARGET in run("direct-volume", "list", "--config", config).stdout


# -- asking guests -------------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path):
    """A device that is there, and on which the host sees nothing."""
    path = tmp_path / "device"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def guest(add, root, device, monkeypatch):
    """A record, and a way to serve its guest's agent by a Go shim; places of the test only."""
    add(GOOD.replace("/dev/vda", str(device)))
    with tempfile.TemporaryDirectory(prefix="kcs", dir="/tmp") as folder:
        places = {"go_sockets": Path(folder), "rust_sockets": Path(folder, "none"), "places": ()}
        monkeypatch.setattr(guests, "Sandboxes", functools.partial(Sandboxes, **places))

        def serve(agent, sandbox="sandbox-1"):
            (file_of(root).parent / sandbox).touch()
            return in_thread(
                GoShim(Path(folder, sandbox, "shim-monitor.sock"), agent, {str(device): "/guest"})
            )

        yield serve


@pytest.fixture
def ask(run, root):
    """Call a command for the target."""
    return lambda command, *more: run(
        "direct-volume", command, "--root", root, "--volume-path", TARGET, *more
    )


HALF_FULL = Numbers(1 << 20, 1 << 19, 100, 60)


def test_stats_are_the_guest_s(guest, ask):
    """A table for people; for programs the form that kata-runtime prints."""
    with guest(Agent(stats=lambda _: HALF_FULL)):
        table, data = ask("stats"), ask("stats", "-o", "json")
    assert [line.split() for line in table.stdout.splitlines()] == [
        ["UNIT", "TOTAL", "USED", "AVAILABLE"],
        ["bytes", "1048576", "524288", "524288"],
        ["inodes", "100", "40", "60"],
    ]
    assert json.loads(data.stdout) == {
        "usage": [
            {"total": 1 << 20, "used": 1 << 19, "available": 1 << 19, "unit": 1},
            {"total": 100, "used": 40, "available": 60, "unit": 2},
        ]
    }


def test_stats_that_nobody_can_give_are_exit_code_1(guest, ask, root):
    """kata-runtime prints the shim's error and succeeds; here stdout is empty and stderr has the reason."""
    with guest(Agent()):
        result = ask("stats")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "sandbox sandbox-1 (go): answered 500: rpc error: code = Internal" in result.stderr
    result = ask("stats")
    assert result.exit_code == 1
    assert "no live sandbox" in result.stderr


def test_stats_of_the_living_sandbox(guest, ask, root):
    """kata-runtime takes the first id that it finds and fails on a dead one; here the living one answers."""
    (file_of(root).parent / "a-dead-one").touch()
    with guest(Agent(stats=lambda _: HALF_FULL)):
        assert ask("stats").exit_code == 0


@pytest.mark.parametrize("command", ["stats", "resize"])
def test_asking_without_a_record_is_exit_code_1(run, root, command):
    """There is nobody to ask about."""
    extra = ("--size", 1) if command == "resize" else ()
    result = run("direct-volume", command, "--root", root, "--volume-path", TARGET, *extra)
    assert result.exit_code == 1
    assert "has no record" in result.stderr


def test_resize_is_what_the_guest_does(guest, ask):
    """The agent gets the bytes; nothing is printed."""
    agent = Agent(stats=lambda _: HALF_FULL, resize=lambda *_: None)
    with guest(agent):
        result = ask("resize", "--size", 1 << 20)
    assert (result.exit_code, result.output) == (0, "")
    assert ("resize", "/guest", 1 << 20) in agent.asked


def test_resize_does_not_tell_a_guest_of_bytes_that_are_not_there(guest, ask, device):
    """The device has to have grown before."""
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    agent = Agent(resize=lambda *_: None)
    with guest(agent):
        result = ask("resize", "--size", (1 << 20) + 1)
    assert result.exit_code == 1
    assert "has 1048576 bytes; grow it first" in result.stderr
    assert agent.asked == []


def test_resize_by_stock_kata_is_exit_code_1(guest, ask):
    """No release can: the reason and the remedy are told."""
    with guest(Agent(stats=lambda _: HALF_FULL)):
        result = ask("resize", "--size", 4096)
    assert result.exit_code == 1
    assert "resize_volume is not implemented" in result.stderr
    assert "restart the pod" in result.stderr
    result = ask("resize", "--size", 4096)
    assert result.exit_code == 1
    assert "no live sandbox" in result.stderr


def test_resize_that_is_not_known_is_exit_code_1(guest, ask):
    """A guest that fails in some other way may have grown or not; that is said."""

    def fails(*_):
        raise AgentError("Internal", "resize2fs: exit code 1")

    with guest(Agent(stats=lambda _: HALF_FULL, resize=fails)):
        result = ask("resize", "--size", 4096)
    assert result.exit_code == 1
    assert "whether it has grown is not known" in result.stderr
    assert "resize2fs: exit code 1" in result.stderr


@pytest.mark.parametrize("size", ["8Gi", "0", "-1", str(1 << 64), "1.5"])
def test_resize_takes_bytes(ask, size):
    """A size that is no count of bytes is bad usage."""
    assert ask("resize", "--size", size).exit_code == 2
