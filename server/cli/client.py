"""The CLI's door to the REST interface: address, credential, and the way an error answer becomes an exit status."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import click
import httpx

from sandbox.errors import ConfigError
from sandbox.settings import Settings, load
from server.cli.failure import CommandError, NotServed, WrongRequest
from server.cli.prepare import base_url

READ_TIMEOUT_SECONDS: Final = 700.0
"""Longer than the longest call (300 s) behind the longest start (300 s)."""
PROGRESS_FROM_BYTES: Final = 1024 * 1024
PART_BYTES: Final = 64 * 1024
DEFAULT_NAMESPACE: Final = "default"
#: Under which the context keeps the command's namespace.
_NAMESPACE: Final = "hearth.namespace"


class Api:
    """One HTTP client with the credential. Owned by the click context, closed with it."""

    def __init__(self, url: str, token: str | None, namespace: str = DEFAULT_NAMESPACE) -> None:
        self.url = url.rstrip("/")
        self._token = token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(10, read=READ_TIMEOUT_SECONDS, write=60)
        # A parameter of every request, where it says something.
        params = {} if namespace == DEFAULT_NAMESPACE else {"namespace": namespace}
        # No proxy from the environment: the default address is this machine's own.
        self._http = httpx.Client(base_url=self.url, headers=headers, params=params, timeout=timeout, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def request(self, method: str, path: str, *, expect_failure: bool = False, **options: Any) -> httpx.Response:
        """Send one request. Raises CommandError for an error answer.

        With `expect_failure` an answer of a function's own failure is returned like a success; Hearth's own refusals still raise.
        """
        with self._translated():
            response = self._http.request(method, path, **options)
        if response.is_error and not (expect_failure and is_function_failure(response)):
            raise problem(response, authorised=bool(self._token))
        return response

    def get(self, path: str, **params: Any) -> Any:
        given = {key: value for key, value in params.items() if value is not None}
        return self.request("GET", path, params=given).json()

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except CommandError as error:
            if error.status != 404:
                raise
            return False
        return True

    def rows(self, path: str, key: str, **params: Any) -> list[dict[str, Any]]:
        """The list that an answer holds under `key`, or that it is."""
        answer = self.get(path, **params)
        return list(answer[key] if isinstance(answer, Mapping) else answer)

    def send_json(self, method: str, path: str, value: Any, *, label: str = "") -> Any:
        """Send a JSON body, with a progress bar named `label` when it is long; return the answer's JSON, None without a body."""
        return self.send(method, path, json.dumps(value).encode(), "application/json", label=label)

    def send(self, method: str, path: str, body: bytes, media_type: str, *, label: str = "") -> Any:
        headers = {"Content-Type": media_type, "Content-Length": str(len(body))}
        show = label and len(body) >= PROGRESS_FROM_BYTES and sys.stderr.isatty()
        content = _with_progress(body, label) if show else body
        response = self.request(method, path, content=content, headers=headers)
        return response.json() if response.content else None

    @contextmanager
    def events(self, path: str, **params: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """Follow server-sent events: the JSON of each `data:`. The stream ends with the server or with the block."""
        with self._translated(), self._http.stream("GET", path, params=params, timeout=httpx.Timeout(10, read=None)) as response:
            if response.is_error:
                response.read()
                raise problem(response, authorised=bool(self._token))
            yield (json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:"))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            hint = "start it with `hearth up`, or name another with --url or HEARTH_URL"
            raise NotServed(f"nobody answers at {self.url}", hint=hint) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise WrongRequest(f"{self.url!r} is not an address: {error}") from error
        except httpx.TransportError as error:
            raise CommandError(f"{self.url}: {str(error) or type(error).__name__}", hint="the call may have run; see its record") from error


def is_function_failure(response: httpx.Response) -> bool:
    """Whether it's the function that failed: its answers are SCF's error JSON, ours are problem+json."""
    return "x-scf-status" in response.headers and not response.headers.get("content-type", "").startswith("application/problem+json")


def problem(response: httpx.Response, *, authorised: bool) -> CommandError:
    """Turn an error answer into the exception that ends the command with its status."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    message = str(body.get("detail") or body.get("title") or f"{response.status_code} {response.reason_phrase}")
    hint = str(body.get("hint") or "")
    if response.status_code == 401:
        hint = hint or ("the credential is another one's" if authorised else "run it as root, or give --token or HEARTH_TOKEN")
    if response.status_code in (429, 503):
        wait = response.headers.get("retry-after")
        return NotServed(message, hint=hint or (f"try again in {wait} s" if wait else ""), status=response.status_code)
    return (WrongRequest if response.status_code < 500 else CommandError)(message, hint=hint, status=response.status_code)


def _with_progress(body: bytes, label: str) -> Iterator[bytes]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=len(body))
        for start in range(0, len(body), PART_BYTES):
            part = body[start : start + PART_BYTES]
            yield part
            progress.advance(task, len(part))


def _remember(context: click.Context, _option: click.Parameter, value: str) -> None:
    context.meta[_NAMESPACE] = value


namespaced = click.option(
    "-n",
    "--namespace",
    envvar="HEARTH_NAMESPACE",
    default=DEFAULT_NAMESPACE,
    metavar="NAME",
    expose_value=False,
    callback=_remember,
    help="Whose functions.  [HEARTH_NAMESPACE; default: default]",
)
"""The option of every command about functions; `open_api` takes it from the context."""


def function_path(name: str, *rest: str) -> str:
    return "/".join(("/v1/functions", quote(name, safe=""), *rest))


def load_settings() -> Settings:
    try:
        return load()
    except ConfigError as error:
        raise WrongRequest(error.message, hint=error.hint) from error


def read_credential(settings: Settings) -> str | None:
    """The credential that `hearth up` wrote; None when it is missing or not ours to read."""
    try:
        return settings.credential_path.read_text().strip() or None
    except (FileNotFoundError, PermissionError):
        return None


def open_api(context: click.Context) -> Api:
    """The API named by --url and --token, their environment names, or this machine's own, and the command's namespace; closed with the
    command."""
    root = context.find_root()
    settings = load_settings()
    url = root.params.get("url") or base_url(settings.listen)
    token = root.params.get("token") or read_credential(settings)
    api = Api(url, token, context.meta.get(_NAMESPACE, DEFAULT_NAMESPACE))
    root.call_on_close(api.close)
    return api


def read_source(value: str) -> bytes:
    """`@file`, `-` for stdin, or the text itself."""
    if value == "-":
        return sys.stdin.buffer.read()
    if not value.startswith("@"):
        return os.fsencode(value)
    try:
        with open(value[1:], "rb") as file:
            return file.read()
    except OSError as error:
        raise WrongRequest(f"cannot read {value[1:]}: {error.strerror}") from error
