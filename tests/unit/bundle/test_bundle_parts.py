"""What of a bundle is secret, and that a part which fails says so and hinders no other."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from types import SimpleNamespace

import pydantic
import pytest

from katacsi.backends import registry
from katacsi.bundle import archive, machine, redacting
from katacsi.bundle.parts import MOST_BYTES, Part, Subject, made
from katacsi.errors import HostError
from katacsi.logs import REDACTED
from katacsi.volumes.publish.marks import Marks


@pytest.fixture
def subject(tmp_path):
    """A node about which nothing is known but a secret."""
    return Subject(
        tmp_path / "c", None, "no such file", "n1", tmp_path, Marks(tmp_path), frozenset({'pass"word'})
    )


def giving(content):
    async def make(subject):
        return content() if callable(content) else content

    return make


def test_what_sounds_secret_is_taken_out_at_any_depth():
    """By the key, in lists and mappings; and a login in a URL, whatever its key."""
    value = {
        "pools": {"a": {"directory": "/srv", "chap_password": "hunter22", "portals": [{"token": ["t0ken"]}]}},
        "endpoint": "https://me:pa55@collector:4318/v1",
        "password": "",
    }
    assert redacting.redacted(value) == {
        "pools": {"a": {"directory": "/srv", "chap_password": REDACTED, "portals": [{"token": REDACTED}]}},
        "endpoint": f"https://{REDACTED}@collector:4318/v1",
        "password": "",
    }
    assert set(redacting.secrets_in(value)) == {"hunter22", "t0ken", "me", "pa55", ""}


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter22\npools: {}\n",
        "pools: {default: {backend: x, chap_secret: 'hunter22'}}\n",
        "  token: hunter22\n broken: [\n",  # no YAML, and the error quotes it
        'x: "\npassword: "hunter22"\n',
    ],
)
def test_the_secrets_of_a_configuration_are_known_even_where_it_is_broken(tmp_path, text):
    """An error quotes what it does not understand, so the secrets of a broken file are looked for as well."""
    (tmp_path / "config.yaml").write_text(text)
    assert "hunter22" in redacting.secrets_of(tmp_path / "config.yaml", {})


def test_the_environment_s_secrets_are_known(tmp_path):
    """A KATACSI_* variable may hold a secret, or a mapping with one."""
    variables = {
        "KATACSI_POOLS__X__PASSWORD": "hunter22",
        "KATACSI_POOLS__Y": "{backend: x, token: abcdefg}",
        "KATACSI_LOG__LEVEL": "debug",
    }
    found = redacting.secrets_of(tmp_path / "absent", variables)
    assert {"hunter22", "abcdefg"} <= found
    assert "debug" not in found


@pytest.mark.parametrize("form", ['pass"word', 'pass\\"word', "pass%22word"])
def test_a_secret_is_taken_out_in_each_form(form):
    """As it is, as JSON writes it and as a URL does."""
    assert redacting.scrubbed(f"<{form}>".encode(), frozenset({'pass"word'})) == f"<{REDACTED}>".encode()


@pytest.mark.parametrize("name", ["x.json", "x.txt"])
@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (HostError('the disk is gone: pass"word'), f"the disk is gone: {REDACTED}"),
        (RuntimeError("odd"), "RuntimeError: odd"),
        (PermissionError(13, "Permission denied"), "PermissionError"),
    ],
)
async def test_a_part_that_fails_says_so_in_its_place(subject, name, raised, says):
    """Whatever is raised is the file's content, JSON where the file is JSON, and without secrets."""

    async def make(_):
        raise raised

    file = await made(Part(name, "", make), subject)
    assert says in file.problem
    text = json.loads(file.data)["error"] if name == "x.json" else file.data.decode()
    assert says in text


async def test_a_part_that_hangs_is_given_up(subject):
    """After its time it is said to hang, and the next one is made."""

    async def make(_):
        await asyncio.sleep(3600)

    file = await made(Part("x.txt", "", make, timeout_s=0.01), subject)
    assert (file.hung, file.data) == (True, b"Error: took longer than 0.01 s\n")


async def test_a_part_without_a_configuration_says_why(subject):
    """What needs the settings quotes what is wrong with them."""

    async def make(asked):
        return asked.known

    file = await made(Part("x.json", "", make), subject)
    assert "no such file" in json.loads(file.data)["error"]


async def test_a_part_has_no_secret_and_an_end(subject):
    """Values of secrets, data under secret keys, and more bytes than anybody reads are left out."""
    file = await made(Part("x.json", "", giving({"words": 'x pass"word y', "token": 7})), subject)
    assert json.loads(file.data) == {"words": f"x {REDACTED} y", "token": REDACTED}
    long = await made(Part("x.txt", "", giving("y" * (MOST_BYTES + 9))), subject)
    assert len(long.data) == MOST_BYTES
    odd = await made(Part("x.json", "", giving({"path": "\udcff", "object": object})), subject)
    assert json.loads(odd.data)["path"] == "\udcff"


def test_lines_of_the_kernel_lose_names_and_bytes_of_files():
    """A kernel quotes names of files, and dumps blocks of folders: neither is anybody's business."""
    dump = "[ 1.0] XFS (loop7): 00000000: 41 42 54 42 00 00 00 01  ABTBprivate.txt"
    named = "[ 1.0] EXT4-fs error (device loop7): ext4_lookup: 'private.txt' linked to \"private dir\""
    assert machine._without_data(dump) == "[ 1.0] XFS (loop7): [bytes left out]"
    assert "private" not in machine._without_data(named)
    plain = "[ 1.0] I/O error, dev loop7, sector 8 op 0x1:(WRITE)"
    assert machine._without_data(plain) == plain


async def test_a_field_that_its_backend_calls_secret_is_one(tmp_path, monkeypatch):
    """A key of a pool that sounds like nothing, but is a SecretStr there, is in no file of the bundle."""

    class Pool(pydantic.BaseModel):
        rack: pydantic.SecretStr

    monkeypatch.setattr(registry, "load", lambda _: SimpleNamespace(Settings=Pool))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"state_directory: {tmp_path}/hunter22\ndirect_volume_root: {tmp_path}/records\n"
        "pools: {p: {backend: other, rack: hunter22}}\n"
    )
    made_bundle = await archive.bundle(config, node_id="n1", host_root=tmp_path)
    assert [name for name, data in unpacked(made_bundle.data).items() if b"hunter22" in data] == []
    assert f'"rack": "{REDACTED}"' in unpacked(made_bundle.data)["configuration.json"].decode()


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        return {
            member.name.partition("/")[2]: packed.extractfile(member).read() for member in packed.getmembers()
        }


async def test_no_configuration_is_no_reason_to_give_up(tmp_path):
    """Without one there is a bundle of what needs none, and each other file says what is missing."""
    made_bundle = await archive.bundle(tmp_path / "absent.yaml", node_id="n1", host_root=tmp_path)
    files = unpacked(made_bundle.data)
    assert set(files) == {"README.txt", *(part.name for part in archive.PARTS)}
    assert "absent.yaml: cannot be read" in json.loads(files["configuration.json"])["error"]
    assert json.loads(files["versions.json"])["kernel"]["release"]
    assert json.loads(files["doctor.json"])["findings"]
    assert files["README.txt"].decode().count("could not be made") >= 6
