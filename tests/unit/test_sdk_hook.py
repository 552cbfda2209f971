"""The guest program leads the SDK's clients of scf to this server, and no others, under every interpreter this machine has."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_worker import PAYLOADS, Guest, each_interpreter

HERE = "10.1.0.1:9080"
FILES = {
    "__init__.py": "",
    "common/__init__.py": "",
    "common/http_profile.py": """
class HttpProfile(object):
    scheme = "https"
    def __init__(self, endpoint=None):
        self.endpoint, self.protocol, self.scheme = endpoint, "https", "https"
""",
    "common/abstract_client.py": '''
from tencentcloud.common.http_profile import HttpProfile

class ClientProfile(object):
    def __init__(self, httpProfile=None):
        self.httpProfile = httpProfile or HttpProfile()

class AbstractClient(object):
    _service = ""
    def __init__(self, credential, region, profile=None):
        """The SDK's own words."""
        self.profile = ClientProfile() if profile is None else profile
        if credential == "wrong":
            raise ValueError(credential)
''',
}


@pytest.fixture(params=each_interpreter())
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Guest]]:
    """A worker that has loaded a package with such an SDK in it, given these variables."""
    shutil.copy(PAYLOADS / "aimed.py", tmp_path)
    for name, text in FILES.items():
        path = tmp_path / "tencentcloud" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    guests = []

    def loaded(**environment: str) -> Guest:
        guests.append(Guest(request.param))
        assert guests[-1].load("aimed.main", tmp_path, **environment) == {"op": "loaded"}
        return guests[-1]

    yield loaded
    for guest in guests:
        guest.close()


def told(guest: Guest, **event: Any) -> dict[str, Any]:
    head, value = guest.invoke({"service": "scf", **event})
    assert head["op"] == "result", head
    return dict(value)


def test_clients_of_scf_come_here_and_all_others_go_where_they_would(load: Callable[..., Guest]) -> None:
    guest = load(TENCENTCLOUD_SCF_ENDPOINT=HERE, TENCENTCLOUD_SCF_PROTOCOL="http")
    found = told(guest)
    assert (found["endpoint"], found["scheme"], found["finders"]) == (HERE, "http", 1)
    assert found["doc"] == "The SDK's own words."
    assert found["loader"] in ("SourceFileLoader", "")
    assert told(guest, profile=True)["endpoint"] == HERE
    # as tencentserverless names it; the profile that the code made, and may use for another service, stays as it is
    for name in ("scf.internal.tencentcloudapi.com", "scf.tencentcloudapi.com", "scf.ap-guangzhou.tencentcloudapi.com"):
        found = told(guest, named=name)
        assert (found["endpoint"], found["given"]) == (HERE, name)
    assert told(guest, named="10.9.9.9:80")["endpoint"] == "10.9.9.9:80"
    assert told(guest, named="scf.tencentcloudapi.com.example.org")["endpoint"] == "scf.tencentcloudapi.com.example.org"
    for service in ("cvm", "sts", "scfx", ""):
        found = told(guest, service=service)
        assert (found["endpoint"], found["scheme"]) == (None, "https")


@pytest.mark.parametrize("more", [{}, {"TENCENTCLOUD_SCF_ENDPOINT": HERE, "HEARTH_SDK_ENDPOINT": "off"}], ids=["no endpoint", "off"])
def test_nothing_is_there_where_it_is_off(load: Callable[..., Guest], more: dict[str, str]) -> None:
    found = told(load(**more))
    assert (found["endpoint"], found["scheme"], found["finders"]) == (None, "https", 0)


def test_an_sdk_that_is_laid_out_otherwise_still_loads(load: Callable[..., Guest], tmp_path: Path) -> None:
    (tmp_path / "tencentcloud/common/abstract_client.py").write_text("AbstractClient = None\n")
    (tmp_path / "aimed.py").write_text(
        "def main(event, context):\n    import tencentcloud.common.abstract_client as c\n    return c.AbstractClient\n"
    )
    head, value = load(TENCENTCLOUD_SCF_ENDPOINT=HERE).invoke({})
    assert (head["op"], value) == ("result", None)
