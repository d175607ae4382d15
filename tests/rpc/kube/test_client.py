"""The client against a real HTTPS server: what it asks, and what every failure becomes."""

from __future__ import annotations

import asyncio
import time

import pytest

from katacsi import errors
from katacsi.kube import paths
from katacsi.kube.client import ClusterApi
from katacsi.kube.credentials import InCluster, Kubeconfig

POD = paths.pod("default", "web-0")
WHAT = "pod default/web-0"


@pytest.fixture
def pod(server):
    server.objects[POD] = {"metadata": {"name": "web-0", "uid": "u1"}}
    return server.objects[POD]


async def test_an_object_is_read_with_one_request(server, api, pod):
    """A look-up costs one GET, with the pod's token, and gives a plain dict."""
    assert await api.get(POD) == pod
    assert server.requests == [f"GET {POD}"]


async def test_objects_are_made_changed_and_deleted(server, api):
    """What is written arrives as it was given; a merge patch replaces the keys that it names."""
    events = paths.events("default")
    await api.create(events, {"metadata": {"name": "e", "uid": "u"}, "note": "one", "reason": "R"})
    changed = await api.patch(f"{events}/e", {"note": "two"})
    assert (changed["note"], changed["reason"]) == ("two", "R")
    with pytest.raises(errors.AlreadyExists):
        await api.create(events, {"metadata": {"name": "e"}})
    with pytest.raises(errors.OperationPending):
        await api.delete(f"{events}/e", uid="another")
    await api.delete(f"{events}/e", uid="u")
    with pytest.raises(errors.NotFound):
        await api.delete(f"{events}/e")


async def test_a_list_is_fetched_in_pages(server, api):
    """All objects of a long list come, a page at a time, with the selectors at each page."""
    path = "/api/v1/nodes"
    pages = [[{"n": 1}, {"n": 2}], [{"n": 3}]]
    server.objects[path] = {"items": pages[0], "metadata": {"continue": "next"}}
    found = []
    async for item in api.list(path, labels="a=b", page=2):
        found.append(item)
        server.objects[path] = {"items": pages[1], "metadata": {}}
    assert found == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert server.queries == [
        {"limit": "2", "labelSelector": "a=b"},
        {"limit": "2", "labelSelector": "a=b", "continue": "next"},
    ]


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, errors.NotPermitted, "does not accept the driver's token"),
        (403, errors.NotPermitted, "docs/kubernetes.md"),
        (404, errors.NotFound, "does not exist"),
        (400, errors.Precondition, "refused the request"),
        (422, errors.Precondition, "refused the request"),
        (429, errors.Unavailable, "cannot answer now (429"),
        (500, errors.Unavailable, "cannot answer now (500"),
        (503, errors.Unavailable, "cannot answer now (503"),
    ],
)
async def test_every_refusal_is_an_error_that_names_object_server_and_reason(
    server, api, status, kind, words
):
    """Whoever reads the error sees what was asked for, of whom, why not, and what to do."""
    server.failing = status
    with pytest.raises(errors.KatacsiError) as caught:
        await api.get(POD, what=WHAT)
    assert type(caught.value) is kind
    assert caught.value.message.startswith(WHAT)
    assert words in caught.value.message
    assert f"scripted {status}" in caught.value.message


async def test_a_404_of_something_else_is_no_proof_of_absence(server, api, monkeypatch):
    """A proxy's or an unknown API's 404 says nothing about the object: it is never "absent"."""
    monkeypatch.setattr("support.kube_api._REASONS", {404: "Whatever"})
    with pytest.raises(errors.Precondition):
        await api.get(POD, what=WHAT)


async def test_a_server_that_hangs_is_waited_for_as_long_as_configured(server, pod):
    """No call outlasts kube.timeout, whatever the server does."""
    server.hanging = True
    client = ClusterApi(server.credentials, timeout_s=0.3)
    started = time.monotonic()
    with pytest.raises(errors.Unavailable, match=r"did not answer within 0.3 s \(kube.timeout\)"):
        await client.get(POD, what=WHAT)
    assert time.monotonic() - started < 2
    await client.close()


async def test_a_server_that_is_gone_is_unavailable(server, api, pod):
    """A refused connection is worth a retry, and the next call finds the server again."""
    await server.stop()
    with pytest.raises(errors.Unavailable, match="cannot be reached"):
        await api.get(POD, what=WHAT)
    await server.start()
    assert await api.get(POD) == pod


async def test_an_answer_that_is_not_json_is_not_believed(server, api):
    """Something that is no API server is said to be that, and nothing is taken for absent."""
    server.objects[POD] = ["no", "object"]
    with pytest.raises(errors.Unavailable, match="not JSON"):
        await api.get(POD)


async def test_an_expired_token_is_read_again_at_once(server, api, pod):
    """The kubelet replaced the token; the call succeeds with the new one, without an error in between."""
    await api.get(POD)
    server.rotate_token()
    assert await api.get(POD) == pod


async def test_a_token_that_stays_refused_is_not_read_again_at_every_call(server, api, pod, monkeypatch):
    """With a token that the server refuses, calls fail fast: the files are read again once in a while."""
    server.rotate_token(give=False)
    loads = []
    real = InCluster.load

    async def counted(self):
        loads.append(self)
        return await real(self)

    monkeypatch.setattr(InCluster, "load", counted)
    for _ in range(5):
        with pytest.raises(errors.NotPermitted):
            await api.get(POD, what=WHAT)
    assert len(loads) == 1


async def test_a_rotated_certificate_is_trusted_once_the_pod_has_its_authority(server, api, pod):
    """Until the new authority is there, calls say what is missing; then they succeed without a restart."""
    await server.rotate_certificate()
    with pytest.raises(errors.Unavailable, match=r"certificate of .* is not trusted"):
        await api.get(POD, what=WHAT)
    server.give_authority()
    api._renewed_at -= 60
    assert await api.get(POD) == pod


async def test_calls_under_way_survive_a_renewal(server, api, pod):
    """Credentials that are read again take no connection away from a call that is being answered."""
    await api.get(POD)
    server.delay_s = 0.3
    slow = asyncio.create_task(api.get(POD))
    await asyncio.sleep(0.1)
    old = api._connection
    assert await api._renewed(old) is not old
    assert await slow == pod


@pytest.mark.parametrize("name", ["..", "a/b", "", "a?b", "a%2fb"])
def test_no_name_leads_to_another_object(name):
    """A name from a request cannot make the path of something else."""
    with pytest.raises(errors.Precondition):
        paths.pod("default", name)


async def test_a_kubeconfig_file_serves_as_well(server, pod):
    """Outside a pod the current context of a kubeconfig file says where and who."""
    client = ClusterApi(Kubeconfig(server.write_kubeconfig()), timeout_s=2)
    assert await client.get(POD) == pod
    await client.close()


@pytest.mark.parametrize(
    "text", ["{", "[]", "contexts: []", "current-context: a", "", "current-context: a\ncontexts: 3"]
)
async def test_a_broken_kubeconfig_is_named(tmp_path, text):
    """The file that cannot be used is named, with the key of the setting."""
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(errors.SettingsError, match=rf"kube.kubeconfig: {file}"):
        await Kubeconfig(file).load()


async def test_a_missing_kubeconfig_is_named(tmp_path):
    """So is one that is not there."""
    with pytest.raises(errors.SettingsError, match="there is no such file"):
        await Kubeconfig(tmp_path / "none").load()


async def test_outside_a_pod_the_settings_that_would_help_are_named(tmp_path):
    """Whoever enables the API without a pod or a file reads what to set."""
    with pytest.raises(errors.SettingsError, match=r"kube.kubeconfig, or set kube.enabled to false"):
        await InCluster(tmp_path, {}).load()
