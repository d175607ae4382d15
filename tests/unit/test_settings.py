"""The configuration: a YAML file, with the environment on top."""

from pathlib import Path

import pytest

from katacsi.errors import SettingsError
from katacsi.settings import Settings, check_node_id, load, parse

EXAMPLE = """
driver_name: local.katacsi.io
direct_volume_root: /run/kata-containers/shared/direct-volumes
kube: {enabled: false}
pools:
  default: {backend: loopfile, directory: /var/lib/katacsi/default}
"""


@pytest.fixture
def config(tmp_path):
    """Write a configuration file."""

    def write(text):
        path = tmp_path / "katacsi.yaml"
        path.write_text(text)
        return path

    return write


def test_the_documented_shape(config):
    """The example of the documentation is a configuration."""
    settings = load(config(EXAMPLE), {})
    assert settings.driver_name == "local.katacsi.io"
    assert settings.direct_volume_root == Path("/run/kata-containers/shared/direct-volumes")
    assert settings.pools == {"default": {"backend": "loopfile", "directory": "/var/lib/katacsi/default"}}
    assert settings.state_path == Path("/run/katacsi/local.katacsi.io")
    assert settings.topology_key == "topology.local.katacsi.io/node"


def test_the_defaults_are_the_safe_ones(config):
    """An empty file is legal, and what protects bytes is on."""
    settings = load(config(""), {})
    assert settings == Settings()
    assert settings.guest_filesystems == "refuse"
    assert settings.kube.enabled is False
    assert settings.newer_capabilities is False


def test_the_environment_lies_on_top(config):
    """A variable wins over the file, level by level, and its value is read as YAML."""
    settings = load(
        config(EXAMPLE + "timeouts: {mkfs: 5, check: 6}\n"),
        {
            "KATACSI_DRIVER_NAME": "other.example.com",
            "KATACSI_TIMEOUTS__MKFS": "7",
            "KATACSI_NEWER_CAPABILITIES": "true",
            "KATACSI_POOLS__FAST": "{backend: loopfile, directory: /fast}",
            "HOME": "/root",
        },
    )
    assert settings.driver_name == "other.example.com"
    assert (settings.timeouts.mkfs, settings.timeouts.check) == (7, 6)
    assert settings.newer_capabilities is True
    assert set(settings.pools) == {"default", "fast"}


def test_the_tooling_s_variables_are_no_settings(config):
    """The test runner's and the command line's own variables do not stop the driver."""
    environment = {"KATACSI_CACHE": "/x", "KATACSI_REQUIRE": "unit", "KATACSI_CONFIG": "/y"}
    assert load(config(EXAMPLE), environment) == load(config(EXAMPLE), {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("driver: x", "driver: unknown key; known are .*driver_name"),
        ("kube: {enable: true}", "kube.enable"),
        ("log: {level: loud}", "log.level"),
        ("timeouts: {mkfs: 0}", "timeouts.mkfs"),
        ("timeouts: {mkfs: -1}", "timeouts.mkfs"),
        ("timeouts: {mkfs: soon}", "timeouts.mkfs"),
        ("driver_name: 'not a name'", "driver_name: 'not a name' cannot name the driver: .*choose one"),
        ("driver_name: Local.katacsi.io", "driver_name: 'Local.katacsi.io' cannot"),
        ("driver_name: under_score", "driver_name"),
        ("driver_name: two..dots", "driver_name"),
        ("driver_name: -dash", "driver_name"),
        ("driver_name: dash-.io", "driver_name"),
        ("driver_name: ''", "driver_name"),
        ('driver_name: "line\\n"', "driver_name"),
        ("driver_name: ü.io", "driver_name"),
        ("driver_name: " + "d" * 55, "driver_name: .*54"),
        ("driver_name: 7", "driver_name"),
        ("default_filesystem: btrfs", "default_filesystem"),
        ("default_volume_size: 0", "default_volume_size"),
        ("guest_filesystems: maybe", "guest_filesystems"),
        ("max_volumes_per_node: -1", "max_volumes_per_node"),
        ("metrics: {address: nowhere}", "metrics.address"),
        ("metrics: {inventory: true}", "metrics: inventory: .*`address`, which is not set"),
        ("metrics: {inventory: true, address: ':9808'}", "metrics: inventory: .*loopback"),
        ("metrics: {inventory: true, address: '0.0.0.0:9808'}", "0.0.0.0:9808 .*inventory_anywhere"),
        ("metrics: {inventory: true, address: '[::]:9808'}", "loopback"),
        ("metrics: {inventory: true, address: '10.0.0.7:9808'}", "loopback"),
        ("metrics: {inventory: true, address: 'node-1:9808'}", "loopback"),
        ("pools: {Default: {backend: loopfile}}", "pools.Default: a pool name"),
        ("pools: {" + "p" * 32 + ": {backend: loopfile}}", "pool name"),
        ("pools: {default: {directory: /x}}", "pools.default.backend"),
        ("pools: {default: {backend: 7}}", "pools.default.backend"),
        ("pools: [default]", "pools"),
        ("- a list", "mapping"),
        ("a: b: c", "not YAML"),
        ("\0", "not YAML"),
    ],
)
def test_what_is_wrong_is_named(config, text, says):
    """Each mistake is refused before anything starts, by the file's name and the key's."""
    path = config(text)
    with pytest.raises(SettingsError, match=says) as refusal:
        load(path, {})
    assert str(path) in refusal.value.message


@pytest.mark.parametrize("name", ["d", "0.io", "a-b.katacsi.io", "d" * 54])
def test_the_topology_key_is_one_that_csi_allows(config, name):
    """A driver name that is accepted gives a key whose prefix has at most 63 characters."""
    key = load(config(f"driver_name: '{name}'"), {}).topology_key
    assert key == f"topology.{name}/node"
    assert len(key.partition("/")[0]) <= 63


@pytest.mark.parametrize("node_id", ["n", "Worker-1", "ip-10-0-0-1.eu_1", "n" * 63, "7"])
def test_a_node_id_that_can_be_a_place(node_id):
    """What Kubernetes mostly calls a node is taken as it is."""
    assert check_node_id(node_id) == node_id


@pytest.mark.parametrize("node_id", ["", "n" * 64, "-n", "n.", "a b", "a/b", "ü", "n\n"])
def test_a_node_id_that_cannot_be_a_place(node_id):
    """The scheduler could not use such a name as a label's value; the remedy is said at start."""
    with pytest.raises(SettingsError, match=r"--node-id .*unique in the cluster"):
        check_node_id(node_id)


def test_all_mistakes_come_at_once(config):
    """Nobody corrects a file one line per start."""
    with pytest.raises(SettingsError) as refusal:
        load(config("log: {level: loud}\nguest_filesystems: maybe\nunknown: 1\n"), {})
    assert refusal.value.message.count("\n") == 2


def test_a_misspelt_variable_is_refused(config):
    """A variable that sets nothing is a mistake, not a no-op."""
    with pytest.raises(SettingsError, match="KATACSI_DRIVERNAME"):
        load(config(EXAMPLE), {"KATACSI_DRIVERNAME": "x"})
    with pytest.raises(SettingsError, match="KATACSI_LOG__LEVEL: not a YAML"):
        load(config(EXAMPLE), {"KATACSI_LOG__LEVEL": "[a"})
    with pytest.raises(SettingsError, match=r"timeouts\.mkfz"):
        load(config(EXAMPLE), {"KATACSI_TIMEOUTS__MKFZ": "1"})


def test_a_missing_file_is_named(tmp_path):
    """The remedy is in the message."""
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: cannot be read .*--config"):
        load(tmp_path / "nowhere.yaml", {})


def test_a_file_that_is_no_text(tmp_path):
    """A binary file is refused like any other file that is not YAML."""
    path = tmp_path / "katacsi.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match=r"katacsi\.yaml"):
        load(path, {})


def test_settings_are_final():
    """Nothing changes its mind while it runs."""
    settings = parse({"pools": {}}, where="test")
    with pytest.raises(ValueError, match="frozen"):
        settings.driver_name = "other"


def test_every_setting_is_described():
    """The schema that the chart embeds explains each key."""

    schema = Settings.model_json_schema()
    sections = schema["$defs"]
    for title, part in {"": schema, **sections}.items():
        for name, field in part.get("properties", {}).items():
            section = sections.get(field.get("$ref", "").removeprefix("#/$defs/"), {})
            assert field.get("description") or section.get("description"), f"{title} {name}"


@pytest.mark.parametrize("variable", ["KATACSI_CACHE", "KATACSI_COUNTS", "KATACSI_TEST_KATA_RUNTIME"])
def test_the_tools_own_variables_are_no_settings(config, variable):
    """A driver that is started by the project's own tools is not refused for how they are told things."""
    assert load(config(""), {variable: "x"}) == Settings()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.9.10:9808", "[::1]:9808", "localhost:9808"])
def test_the_inventory_is_for_loopback(config, address):
    """On an address that only this machine reaches, the inventory needs no second word."""
    assert load(config(f"metrics: {{address: '{address}', inventory: true}}"), {}).metrics.inventory


def test_the_inventory_elsewhere_has_to_be_allowed(config):
    """Who says so may show it on any address, and an address without it may be any."""
    assert load(
        config("metrics: {address: ':1', inventory: true, inventory_anywhere: true}"), {}
    ).metrics.inventory
    assert not load(config("metrics: {address: '0.0.0.0:9808'}"), {}).metrics.inventory
