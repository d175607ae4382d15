"""`katacsi direct-volume`, the drop-in for `kata-runtime direct-volume`."""

from __future__ import annotations

import base64
import json

import pytest

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
    result = add(GOOD[:-1] + ',"mount_options":["ro"],"Options":["ro"]}')
    assert result.exit_code == 0
    assert "key 'mount_options' left out" in result.stderr
    assert "is 'options' meant?" in result.stderr
    assert file_of(root).read_text() == GOOD


@pytest.mark.parametrize(
    ("mount_info", "named"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
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
@pytest.mark.parametrize("command", ["add", "remove", "show"])
def test_paths_that_kata_could_not_look_up_are_refused(run, root, command, target):
    """A bad path is exit code 1 and touches no other record; "" would be the root of all of them."""
    run("direct-volume", "add", "--root", root, "--volume-path", TARGET, "--mount-info", GOOD)
    extra = ("--mount-info", GOOD) if command == "add" else ()
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
