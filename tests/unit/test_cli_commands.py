"""The commands against an HTTP server with canned answers: requests, output, exit statuses."""

from __future__ import annotations

import base64
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from server.cli.main import main
from server.cli.package import pack

FUNCTION = {"name": "hello", "runtime": "Python3.11", "handler": "index.main_handler", "memory": 128, "timeout": 3, "concurrency": 20}
CALL_HEADERS = {
    "X-Scf-Request-Id": "r-1",
    "X-Scf-Status": "200",
    "X-Scf-Start": "warm",
    "X-Scf-Duration-Ms": "0.250",
    "X-Scf-Billed-Ms": "1",
    "X-Scf-Memory-Bytes": "1048576",
}


@dataclass
class Answer:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


@dataclass
class Request:
    method: str
    path: str
    body: bytes
    headers: dict[str, str]


class Server:
    """Answers by "METHOD /path" and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[Request] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append(Request(self.command, self.path, body, dict(self.headers)))
                missing = Answer(404, {"detail": "no such function: hello", "status": 404}, media_type="application/problem+json")
                answer = outer.answers.get(f"{self.command} {self.path.partition('?')[0]}", missing)
                raw = answer.body if isinstance(answer.body, bytes) else b"" if answer.body is None else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for key, value in {"Content-Type": answer.media_type, "Content-Length": str(len(raw)), **answer.headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                return None

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def run(self, *arguments: str, input: bytes | None = None) -> Result:
        return CliRunner().invoke(main, ["--url", self.url, "--token", "secret", *arguments], input=input, prog_name="hearth")


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "index.py").write_text("def main_handler(event, context): return event\n")
    return folder


def test_a_call_prints_the_body_as_it_came_and_sends_the_credential(server: Server) -> None:
    server.answers["POST /v1/functions/hello/invocations"] = Answer(200, b'{"a":  1}', CALL_HEADERS)
    result = server.run("invoke", "hello", "-d", '{"k": "v"}')
    assert (result.exit_code, result.stdout) == (0, '{"a":  1}\n')
    assert server.requests[0].body == b'{"k": "v"}'
    assert server.requests[0].headers["Authorization"] == "Bearer secret"


def test_an_event_comes_from_a_file_or_stdin(server: Server, tmp_path: Path) -> None:
    server.answers["POST /v1/functions/hello/invocations"] = Answer(200, b"1", CALL_HEADERS)
    (tmp_path / "event.json").write_bytes(b"[1]")
    assert server.run("invoke", "hello", "-d", f"@{tmp_path}/event.json").exit_code == 0
    assert server.run("invoke", "hello", "-d", "-", input=b"[2]").exit_code == 0
    assert [request.body for request in server.requests] == [b"[1]", b"[2]"]
    missing = server.run("invoke", "hello", "-d", f"@{tmp_path}/none")
    assert (missing.exit_code, "No such file" in missing.stderr) == (2, True)


def test_a_function_that_failed_is_exit_1_with_its_stack_trace(server: Server) -> None:
    body = {"errorCode": -1, "errorMessage": "boom", "stackTrace": "  File index.py, line 2\nValueError: boom", "statusCode": 430}
    server.answers["POST /v1/functions/hello/invocations"] = Answer(502, body, {**CALL_HEADERS, "X-Scf-Status": "430"})
    result = server.run("invoke", "hello")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "hello failed with status 430: boom\n  File index.py, line 2" in result.stderr


@pytest.mark.parametrize(("status", "exit_code"), [(400, 2), (401, 2), (404, 2), (413, 2), (429, 3), (500, 1), (503, 3)])
def test_a_refusal_has_the_exit_status_of_its_kind_and_shows_detail_and_hint(server: Server, status: int, exit_code: int) -> None:
    body = {"status": status, "title": "T", "detail": "the detail", "hint": "the hint"}
    headers = {"X-Scf-Status": "432", "Retry-After": "1"}
    server.answers["POST /v1/functions/hello/invocations"] = Answer(status, body, headers, "application/problem+json")
    result = server.run("invoke", "hello")
    assert (result.exit_code, result.stderr) == (exit_code, "hearth: the detail\n  hint: the hint\n")


def test_an_answer_that_is_no_problem_document_still_ends_in_one_line(server: Server) -> None:
    server.answers["GET /v1/functions"] = Answer(500, b"<html>", media_type="text/html")
    result = server.run("ls")
    assert (result.exit_code, result.stderr) == (1, "hearth: 500 Internal Server Error\n")


def test_nobody_listening_is_exit_3_and_says_how_to_start_it() -> None:
    result = CliRunner().invoke(main, ["--url", "http://127.0.0.1:9", "--token", "x", "ls"])
    assert result.exit_code == 3
    assert "nobody answers at http://127.0.0.1:9" in result.stderr
    assert "hearth up" in result.stderr


def test_a_call_as_json_carries_the_headers_and_the_parsed_result(server: Server) -> None:
    tail = {"X-Scf-Log": base64.b64encode(b"hi\xff\n").decode()}
    server.answers["POST /v1/functions/hello/invocations"] = Answer(200, b'{"a": 1}', {**CALL_HEADERS, **tail})
    call = json.loads(server.run("invoke", "hello", "--tail", "--json").stdout)
    assert (call["result"], call["start"], call["duration_ms"], call["log"]) == ({"a": 1}, "warm", 0.25, "hi\\xff\n")
    assert "logType=Tail" in server.requests[0].path


def test_the_tail_of_the_log_goes_to_stderr_and_the_result_to_stdout(server: Server) -> None:
    tail = {"X-Scf-Log": base64.b64encode(b"printed\n").decode()}
    server.answers["POST /v1/functions/hello/invocations"] = Answer(200, b"1", {**CALL_HEADERS, **tail})
    result = server.run("invoke", "hello", "--tail")
    assert (result.stdout, result.stderr) == ("1\n", "printed\n")


def test_an_asynchronous_call_prints_its_id(server: Server) -> None:
    server.answers["POST /v1/functions/hello/invocations"] = Answer(202, {"request_id": "r-9"})
    assert server.run("invoke", "hello", "--async").stdout == "r-9\n"
    assert "invokeType=Event" in server.requests[0].path


def test_a_new_function_is_created_with_scfs_defaults(server: Server, code: Path) -> None:
    server.answers["POST /v1/functions"] = Answer(201, FUNCTION)
    result = server.run("deploy", "hello", str(code), "--memory", "256", "--env", "A=b=c", "--env", "E=")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("created hello: Python3.11, index.main_handler, ")
    sent = json.loads(server.requests[-1].body)
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(sent.pop("code")["zip"])))
    assert archive.namelist() == ["index.py"]
    assert sent == {
        "name": "hello",
        "runtime": "python3",
        "handler": "index.main_handler",
        "memory": 256,
        "environment": {"A": "b=c", "E": ""},
    }


def test_an_existing_function_gets_code_and_only_the_named_configuration(server: Server, code: Path) -> None:
    server.answers["GET /v1/functions/hello"] = Answer(200, FUNCTION)
    server.answers["PUT /v1/functions/hello/code"] = Answer(200, FUNCTION)
    assert server.run("deploy", "hello", str(code)).stdout.startswith("updated hello")
    assert [request.method for request in server.requests] == ["GET", "PUT"]
    assert server.requests[1].headers["Content-Type"] == "application/zip"
    del server.requests[:]
    server.run("deploy", "hello", str(code), "--timeout", "9", "--handler", "a.b")
    # In one request: no call finds the new code with the old configuration.
    assert [request.method for request in server.requests] == ["GET", "PUT"]
    body = json.loads(server.requests[1].body)
    assert body.keys() == {"zip", "configuration"} and body["configuration"] == {"timeout": 9, "handler": "a.b"}


def test_a_refused_lookup_does_not_turn_into_a_creation(server: Server, code: Path) -> None:
    server.answers["GET /v1/functions/hello"] = Answer(401, {"detail": "no"}, media_type="application/problem+json")
    assert server.run("deploy", "hello", str(code)).exit_code == 2
    assert [request.method for request in server.requests] == ["GET"]


def test_an_environment_without_equals_sign_is_wrong_usage(server: Server, code: Path) -> None:
    result = server.run("deploy", "hello", str(code), "--env", "NOVALUE")
    assert (result.exit_code, server.requests) == (2, [])


def test_tables_are_plain_aligned_text_in_a_pipe(server: Server) -> None:
    server.answers["GET /v1/functions"] = Answer(200, {"functions": [FUNCTION, {**FUNCTION, "name": "a-much-longer-name"}]})
    lines = server.run("ls").stdout.splitlines()
    assert lines[0].startswith("NAME                RUNTIME")
    assert lines[1].startswith("hello               Python3.11  index.main_handler  128 MB")
    assert "\x1b" not in "".join(lines)


def test_an_empty_table_leaves_a_pipe_empty(server: Server) -> None:
    server.answers["GET /v1/sandboxes"] = Answer(200, {"sandboxes": []})
    result = server.run("ps")
    assert (result.stdout, result.stderr) == ("", "no sandboxes\n")


@pytest.mark.parametrize(
    ("command", "path", "body"),
    [
        (["ls"], "/v1/functions", {"functions": [FUNCTION]}),
        (["ps"], "/v1/sandboxes", {"sandboxes": [{"id": "s1", "state": "idle", "memory_bytes": 1}]}),
        (["usage"], "/v1/usage", {"usage": [{"day": "2026-01-02", "function": "hello", "calls": 2, "gb_seconds": 0.5}]}),
        (["logs", "hello"], "/v1/functions/hello/logs", {"logs": [{"request_id": "r", "time": "t", "log": "x\n"}]}),
    ],
)
def test_json_output_is_the_rows_themselves(server: Server, command: list[str], path: str, body: dict[str, Any]) -> None:
    server.answers[f"GET {path}"] = Answer(200, body)
    assert json.loads(server.run(*command, "--json").stdout) == next(iter(body.values()))
    assert server.run(*command).exit_code == 0


def test_following_prints_each_event_and_ends_with_the_stream(server: Server) -> None:
    stream = (
        b': keep-alive\n\nid: 1\ndata: {"request_id": "r1", "time": "t1", "log": "one\\n"}\n\ndata: {"request_id": "r2", "log": ""}\n\n'
    )
    server.answers["GET /v1/functions/hello/logs"] = Answer(200, stream, media_type="text/event-stream")
    assert server.run("logs", "hello", "-f").stdout == "--- t1 r1\none\n---  r2\n"
    assert server.run("logs", "nobody", "-f").exit_code == 2
    server.run("logs", "hello", "-f", "-l", "5")
    assert server.requests[-1].path == "/v1/functions/hello/logs?follow=1&limit=5"


def test_ctrl_c_is_the_end_of_following_and_no_failure(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(row: object) -> None:
        raise KeyboardInterrupt

    server.answers["GET /v1/functions/hello/logs"] = Answer(200, b'data: {"log": "x"}\n\n', media_type="text/event-stream")
    monkeypatch.setattr("server.cli.calls._show", interrupted)
    result = server.run("logs", "hello", "-f")
    assert (result.exit_code, result.stderr) == (0, "")


def test_what_is_whole_is_whole_in_json(server: Server) -> None:
    server.answers["POST /v1/functions/hello/invocations"] = Answer(200, b"1", CALL_HEADERS)
    call = json.loads(server.run("invoke", "hello", "--json").stdout)
    assert [repr(call[key]) for key in ("duration_ms", "billed_ms", "memory_bytes")] == ["0.25", "1", "1048576"]


def test_deleting_stops_at_the_first_refusal(server: Server) -> None:
    server.answers["DELETE /v1/functions/hello"] = Answer(204)
    result = server.run("rm", "hello", "other")
    assert (result.exit_code, result.stdout) == (2, "deleted hello\n")


def test_a_name_cannot_leave_its_place_in_the_path(server: Server) -> None:
    server.run("describe", "../usage?x")
    assert server.requests[0].path == "/v1/functions/..%2Fusage%3Fx"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_this_command(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_HEARTH_COMPLETE" in result.stdout


def test_the_configuration_table_shows_what_the_environment_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_KEEP_ALIVE_SECONDS", "7")
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(main, ["config", "--json"]).stdout)}
    assert (rows["keep_alive_seconds"]["value"], rows["keep_alive_seconds"]["default"]) == (7.0, 300.0)
    monkeypatch.setenv("HEARTH_WORKERS", "many")
    assert CliRunner().invoke(main, ["config"]).exit_code == 2


def test_the_credential_is_read_from_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEARTH_HOME", str(tmp_path))
    assert CliRunner().invoke(main, ["token"]).exit_code == 1
    (tmp_path / "credential").write_text("abc\n")
    assert CliRunner().invoke(main, ["token"]).stdout == "abc\n"


# Packing --------------------------------------------------------------------------------------------------------------------


def members(data: bytes) -> dict[str, int]:
    return {info.filename: info.external_attr >> 16 for info in zipfile.ZipFile(io.BytesIO(data)).infolist()}


def test_packing_keeps_execute_bits_and_links_and_leaves_caches_out(code: Path) -> None:
    (code / "tool").write_text("#!/bin/sh\n")
    (code / "tool").chmod(0o700)
    (code / "index.py").chmod(0o600)
    (code / "link").symlink_to("tool")
    for skipped in ("__pycache__", ".git"):
        (code / skipped).mkdir()
        (code / skipped / "x").touch()
    assert members(pack(code)) == {"index.py": 0o100644, "link": 0o120777, "tool": 0o100755}


def test_the_same_code_packs_to_the_same_bytes_at_any_time(code: Path) -> None:
    first = pack(code)
    (code / "index.py").touch()
    assert pack(code) == first


def test_a_single_file_is_packed_under_its_own_name_and_a_zip_goes_as_it_is(code: Path, tmp_path: Path) -> None:
    assert list(members(pack(code / "index.py"))) == ["index.py"]
    (tmp_path / "code.zip").write_bytes(pack(code))
    assert pack(tmp_path / "code.zip") == pack(code)


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_a_broken_zip_and_an_empty_directory_are_wrong_usage(server: Server, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "code.zip").write_bytes(content)
    (tmp_path / "empty").mkdir()
    assert server.run("deploy", "hello", str(tmp_path / "code.zip")).exit_code == 2
    assert server.run("deploy", "hello", str(tmp_path / "empty")).exit_code == 2
    assert server.requests == []


# Namespaces, versions, aliases ------------------------------------------------------------------------------------------------


def test_a_namespace_is_named_by_an_option_or_the_environment(server: Server, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["POST /v1/functions/hello/invocations"] = Answer(200, b"1", CALL_HEADERS)
    server.answers["GET /v1/functions/hello"] = server.answers["PUT /v1/functions/hello/code"] = Answer(200, FUNCTION)
    server.answers["DELETE /v1/functions/hello"] = Answer(204)
    for path, key in (("/v1/functions", "functions"), ("/v1/functions/hello/logs", "logs"), ("/v1/usage", "usage")):
        server.answers[f"GET {path}"] = Answer(200, {key: []})
    commands = [
        ("invoke", "hello"),
        ("logs", "hello"),
        ("ls",),
        ("describe", "hello"),
        ("rm", "hello"),
        ("usage",),
        ("deploy", "hello", str(code)),
    ]
    for command in commands:
        assert server.run(*command, "-n", "team").exit_code == 0
    assert {"namespace=team" in request.path for request in server.requests} == {True}
    monkeypatch.setenv("HEARTH_NAMESPACE", "other")
    server.run("ls")
    assert server.requests[-1].path == "/v1/functions?namespace=other"
    server.run("ls", "--namespace", "default")
    assert server.requests[-1].path == "/v1/functions"


def test_namespaces_are_listed_made_and_removed(server: Server) -> None:
    row = {"name": "team", "description": "ours", "created_at": "t"}
    server.answers["GET /v1/namespaces"] = Answer(200, {"namespaces": [row]})
    server.answers["POST /v1/namespaces"] = Answer(201, row)
    server.answers["DELETE /v1/namespaces/team"] = Answer(204)
    assert server.run("namespace", "ls").stdout.split() == ["NAME", "DESCRIPTION", "CREATED", "team", "ours", "t"]
    assert json.loads(server.run("namespace", "ls", "--json").stdout) == [row]
    assert server.run("namespace", "create", "team", "--description", "ours").stdout == "created team\n"
    assert json.loads(server.requests[-1].body) == {"name": "team", "description": "ours"}
    assert server.run("namespace", "rm", "team").stdout == "deleted team\n"
    assert server.run("namespace", "rm", "nobody").exit_code == 2


def test_versions_are_published_listed_and_removed(server: Server) -> None:
    made = {**FUNCTION, "version": "3", "description": "x", "code_sha256": "a" * 64}
    server.answers["POST /v1/functions/hello/versions"] = Answer(201, made)
    server.answers["GET /v1/functions/hello/versions"] = Answer(200, {"versions": [made]})
    server.answers["DELETE /v1/functions/hello/versions/3"] = Answer(204)
    assert server.run("version", "publish", "hello", "--description", "x", "-n", "team").stdout == "published hello 3\n"
    assert server.requests[-1].path.endswith("/versions?namespace=team")
    assert json.loads(server.requests[-1].body) == {"description": "x"}
    assert "aaaaaaaaaaaa" in server.run("version", "ls", "hello").stdout
    assert server.run("version", "rm", "hello", "3", "--force").stdout == "deleted hello 3\n"
    assert server.requests[-1].path == "/v1/functions/hello/versions/3?force=1"


def test_an_alias_is_made_where_there_is_none_and_changed_where_there_is(server: Server) -> None:
    rule = {"version": "2", "key": "invoke.headers.user", "method": "exact", "expression": "vip"}
    row = {"name": "prod", "version": "1", "routing": {"weights": [{"version": "2", "weight": 0.1}], "matches": [rule]}}
    server.answers["POST /v1/functions/hello/aliases"] = Answer(201, row)
    result = server.run("alias", "set", "hello", "prod", "1", "--weight", "2=0.1", "--match", json.dumps(rule))
    assert result.stdout == "hello prod leads to 1\n"
    assert json.loads(server.requests[-1].body) == row
    server.answers["GET /v1/functions/hello/aliases/prod"] = server.answers["PATCH /v1/functions/hello/aliases/prod"] = Answer(200, row)
    assert server.run("alias", "set", "hello", "prod", "1", "--description", "d").exit_code == 0
    wanted = {"version": "1", "routing": {"weights": [], "matches": []}, "description": "d"}
    assert (server.requests[-1].method, json.loads(server.requests[-1].body)) == ("PATCH", wanted)
    server.answers["GET /v1/functions/hello/aliases"] = Answer(200, {"aliases": [row]})
    assert "2 if invoke.headers.user exact vip, 10% to 2" in server.run("alias", "ls", "hello").stdout
    server.answers["DELETE /v1/functions/hello/aliases/prod"] = Answer(204)
    assert server.run("alias", "rm", "hello", "prod").stdout == "deleted hello prod\n"
    for wrong in (["--weight", "2"], ["--weight", "2=x"], ["--match", "{"]):
        assert server.run("alias", "set", "hello", "prod", "1", *wrong).exit_code == 2


def test_a_routing_key_goes_along_as_a_header(server: Server) -> None:
    server.answers["POST /v1/functions/hello/invocations"] = Answer(200, b"1", CALL_HEADERS)
    assert server.run("invoke", "hello", "--qualifier", "prod", "--routing-key", '{"user": "vip"}').exit_code == 0
    assert server.requests[-1].headers["X-Scf-Routing-Key"] == '{"user": "vip"}'


# Layers -------------------------------------------------------------------------------------------------------------------

VERSION = {
    "name": "numpy",
    "version": 3,
    "runtimes": ["Python3.9", "python2"],
    "unpacked_size": 2**20,
    "created_at": "2026-11-23T00:00:00Z",
    "description": "",
}


def test_publishing_a_layer_sends_its_files_and_says_which_version_it_is(server: Server, tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "numpy.py").write_text("X = 1\n")
    server.answers["POST /v1/layers/numpy/versions"] = Answer(201, VERSION)
    command = ("layer", "publish", "numpy", str(tmp_path), "--runtime", "Python3.9", "--runtime", "python2", "--description", "fast")
    done = server.run(*command)
    assert (done.exit_code, done.output) == (0, "published numpy:3: Python3.9, python2, 1,048,576 bytes unpacked\n")
    body = json.loads(server.requests[-1].body)
    assert (body["runtimes"], body["description"], body["license"]) == (["Python3.9", "python2"], "fast", None)
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(body["code"]["zip"]))) as archive:
        assert archive.namelist() == ["python/numpy.py"]
    assert json.loads(server.run(*command, "--json").stdout) == VERSION
    assert server.run("layer", "publish", "numpy", str(tmp_path)).exit_code == 2  # for no runtime


def test_layers_and_their_versions_are_listed(server: Server) -> None:
    server.answers["GET /v1/layers"] = Answer(200, {"layers": [VERSION], "total": 1})
    server.answers["GET /v1/layers/numpy/versions"] = Answer(200, {"versions": [VERSION, {**VERSION, "version": 1}]})
    done = server.run("layer", "ls", "--runtime", "Python3.9", "--search", "num")
    assert "runtime=Python3.9" in server.requests[-1].path and "search=num" in server.requests[-1].path
    headings, row = done.output.splitlines()
    assert headings.split() == ["NAME", "VERSION", "RUNTIMES", "UNPACKED", "CREATED", "DESCRIPTION"]
    assert row.split() == ["numpy", "3", "Python3.9,", "python2", "1.0", "MB", "2026-11-23T00:00:00Z", "-"]
    assert [row["version"] for row in json.loads(server.run("layer", "versions", "numpy", "--json").stdout)] == [3, 1]


def test_layer_versions_are_deleted_by_name_and_number(server: Server) -> None:
    for number in (1, 2):
        server.answers[f"DELETE /v1/layers/numpy/versions/{number}"] = Answer(204)
    done = server.run("layer", "rm", "numpy:1", "numpy:2")
    assert (done.exit_code, done.output) == (0, "deleted numpy:1\ndeleted numpy:2\n")
    for wrong in ("numpy", "numpy:", ":1", "numpy:x", "numpy:-1"):
        asked = len(server.requests)
        assert server.run("layer", "rm", "numpy:1", wrong).exit_code == 2
        assert len(server.requests) == asked  # nothing is deleted where one is wrong


def test_deploy_names_layers_in_order_or_takes_them_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "index.py").write_text("def main_handler(event, context): pass\n")
    server.answers["POST /v1/functions"] = Answer(201, FUNCTION)
    assert server.run("deploy", "hello", str(tmp_path), "--layer", "numpy:3", "--layer", "a:1").exit_code == 0
    wanted = [{"name": "numpy", "version": 3}, {"name": "a", "version": 1}]
    assert json.loads(server.requests[-1].body)["layers"] == wanted
    assert server.run("deploy", "hello", str(tmp_path)).exit_code == 0
    assert "layers" not in json.loads(server.requests[-1].body)
    server.answers |= {"GET /v1/functions/hello": Answer(200, FUNCTION), "PUT /v1/functions/hello/code": Answer(200, FUNCTION)}
    assert server.run("deploy", "hello", str(tmp_path), "--no-layers").exit_code == 0
    assert json.loads(server.requests[-1].body)["configuration"] == {"layers": []}
    assert server.run("deploy", "hello", str(tmp_path), "--no-layers", "--layer", "a:1").exit_code == 2
    assert server.run("deploy", "hello", str(tmp_path), "--layer", "a").exit_code == 2


# Concurrency ----------------------------------------------------------------------------------------------------------------


def test_concurrency_is_reserved_shown_and_given_back(server: Server) -> None:
    path = "/v1/functions/hello/concurrency"
    share = {"function": "hello", "namespace": "default", "reserved_mb": 0, "total_mb": 1000, "unreserved_mb": 1000}
    server.answers = {f"PUT {path}": Answer(body=share), f"GET {path}": Answer(body=share), f"DELETE {path}": Answer(204)}
    result = server.run("concurrency", "set", "hello", "0")
    assert result.exit_code == 0 and "reserved_mb    0" in result.output
    assert json.loads(server.requests[-1].body) == {"reserved_mb": 0}
    assert json.loads(server.run("concurrency", "get", "hello", "--namespace", "alice", "--json").output) == share
    assert server.requests[-1].path == f"{path}?namespace=alice"
    assert server.run("concurrency", "rm", "hello").output == "hello has no reservation\n"


def test_workers_are_provisioned_with_a_schedule(server: Server) -> None:
    path = "/v1/functions/hello/versions/3/provisioned"
    server.answers = {f"{method} {path}": Answer(body={"status": "done"}) for method in ("PUT", "GET")} | {f"DELETE {path}": Answer(204)}
    assert server.run("provisioned", "set", "hello", "3", "2", "--at", "day=5=0 0 8 * * * *").exit_code == 0
    schedule = [{"name": "day", "number": 5, "cron": "0 0 8 * * * *"}]
    assert json.loads(server.requests[-1].body) == {"number": 2, "schedule": schedule}
    assert "done" in server.run("provisioned", "get", "hello", "3").output
    assert server.run("provisioned", "rm", "hello", "3").exit_code == 0


@pytest.mark.parametrize("action", ["day", "day=5", "day=x=0 0 8 * * * *", "=5=0 0 8 * * * *"])
def test_an_action_that_is_none_is_wrong_usage(server: Server, action: str) -> None:
    result = server.run("provisioned", "set", "hello", "3", "2", "--at", action)
    assert result.exit_code == 2 and server.requests == []


def test_the_account_is_a_table_and_its_total_is_set(server: Server) -> None:
    row = {"namespace": "default", "functions_count": 2, "total_mb": 1000, "reserved_mb": 100, "unreserved_mb": 900, "provisioned_mb": 0}
    server.answers = {"GET /v1/account": Answer(body={"namespaces": [row]}), "PUT /v1/account": Answer(body={"namespaces": []})}
    assert server.run("account").output.splitlines()[1].split() == ["default", "2", "1000", "MB", "100", "MB", "900", "MB", "0", "MB"]
    assert server.run("account", "set-total", "2000", "--namespace", "alice").output == "alice: 2000 MB\n"
    assert json.loads(server.requests[-1].body) == {"namespace": "alice", "total_mb": 2000}
