"""Where an action's code comes from, and what of it is shown again."""

from __future__ import annotations

from typing import Final

from server.functions.codestore import CodeStore
from server.functions.handlers import split_handler
from server.functions.model import Function
from server.scf.errors import ScfError
from server.scf.parameters import Parameters

#: A larger entry file is not shown (SCF, GetFunction).
SHOWN_BYTES: Final = 1024 * 1024
_COS: Final = ("CosBucketName", "CosObjectName", "CosBucketRegion", "TempCosObjectName")


def zip_of(parameters: Parameters, name: str = "Code") -> str:
    """The base64 of a package: Code.ZipFile (a layer's is Content.ZipFile), or ZipFile itself as older clients have it.

    Raises ScfError for every other source. Line breaks, as base64(1) makes them, are taken out.
    """
    code = parameters.object(name) or Parameters({})
    text = code.text("ZipFile") or parameters.text("ZipFile")
    if text:
        return "".join(text.split()) if "\n" in text else text
    if code.object("ImageConfig") is not None:
        raise ScfError(
            "ResourceNotFound.ImageConfig", f"functions from a container image are not supported: upload a zip as {name}.ZipFile"
        )
    if any(place.text(field) for place in (code, parameters) for field in _COS):
        raise ScfError("ResourceNotFound.Cos", f"there are no buckets here to take code from: upload it as {name}.ZipFile")
    if code.text("DemoId"):
        raise ScfError("ResourceNotFound.Demo", f"there are no demonstration functions here: upload code as {name}.ZipFile")
    if code.text("GitUrl"):
        raise ScfError("UnsupportedOperation", f"code from a git repository is not supported: upload a zip as {name}.ZipFile")
    raise ScfError("MissingParameter.Code", f"the request has no code: upload a zip as {name}.ZipFile")


def entry_file(store: CodeStore, function: Function) -> str:
    """The text of the handler's file; empty where there is no such text to show. Blocking."""
    file, _ = split_handler(function.handler)
    for name in (f"{file}.py", f"{file}/__init__.py"):
        path = store.path(function.code) / name
        if path.is_file() and path.stat().st_size <= SHOWN_BYTES:
            return path.read_text(encoding="utf-8", errors="replace")
    return ""
