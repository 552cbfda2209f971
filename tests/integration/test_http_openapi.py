"""The OpenAPI document against the running service: it is valid, complete, and what the service does is what it says.

Schemathesis makes requests from it, valid ones and wrong ones, and looks at every answer: no 5xx, no status, header, media type or body
that the document does not have, wrong ones refused, valid ones accepted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.instance import Instance, packed

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

FOLDER = Path(__file__).parent / "openapi"
ECHO = "def main_handler(event, context):\n    return event\n"
EXAMPLES = 15
SECONDS = 600
#: Not said in a schema: `from` after `to`. The credential goes along with every request, also where a test means to leave it out.
CONFIGURATION = """
[[operations]]
include-path = "/v1/usage"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/functions/{name}/invocations"
checks.missing_required_header.enabled = false
"""


@pytest.fixture
def hello(hearth: Instance) -> Iterator[str]:
    layer = {"runtimes": ["python3", "python2"], "code": {"zip": packed({"shared.py": "X = 1"})}}
    assert hearth.request("POST", "/v1/layers/shared/versions", json=layer).status == 201
    yield hearth.deploy(ECHO, name="hello")
    for function in hearth.request("GET", "/v1/functions").body["functions"]:
        hearth.delete(function["name"])


def schemathesis(hearth: Instance, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    token = (hearth.home / "credential").read_text().strip()
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml", "run"]
    command += [f"{hearth.url}/openapi.json", "--header", f"Authorization: Bearer {token}", *arguments]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hearth_hooks", "PYTHONPATH": str(FOLDER), "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)


def test_what_the_service_does_is_what_its_document_says(hearth: Instance, hello: str, tmp_path: Path) -> None:
    done = schemathesis(hearth, tmp_path, "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-shrink")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    paths = hearth.request("GET", "/openapi.json").body["paths"]
    count = sum(len(item) for path, item in paths.items() if path != "/openapi.json")  # the document is fetched, not tested
    assert f"{count} selected / {count} total" in done.stdout
    assert "Traceback" not in hearth.log.read_text()
