"""What stands in for modules that the API's client would bring does what they do."""

from __future__ import annotations

import subprocess
import sys
import urllib.request

import pytest

from katacsi.kube.library import environments_proxies

HOSTS = ("10.96.0.1", "api.example", "inside.example")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HTTPS_PROXY": "http://proxy.example:3128"},
        {"https_proxy": "http://proxy.example:3128", "NO_PROXY": "10.96.0.1,inside.example"},
        {"no_proxy": "*"},
    ],
    ids=["none", "a proxy", "with exceptions", "none for anybody"],
)
def test_the_environments_proxies_are_those_of_the_real_module(monkeypatch, environment):
    """The API server is reached by the proxy that the environment names, or without."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stand_in = environments_proxies()
    assert stand_in.getproxies() == urllib.request.getproxies()
    for host in HOSTS:
        assert bool(stand_in.proxy_bypass(host)) == bool(urllib.request.proxy_bypass(host))


def test_no_other_client_is_imported():
    """A process that asks the API carries one HTTP client; who imports another later gets the real one."""
    program = (
        "import sys\n"
        "import katacsi.app\n"
        "from katacsi.kube.library import library\n"
        "library()\n"
        "print({'urllib.request', 'http.client', 'http.server', 'urllib3'} & set(sys.modules))\n"
        "import http.client, urllib.request\n"
        "print(http.client.HTTPSConnection.__name__, urllib.request.urlopen.__name__)"
    )
    said = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["set()", "HTTPSConnection urlopen"]
