"""Where an action's code comes from, and what of it is shown again."""

from __future__ import annotations

from functools import partial
from typing import Final

from server.errors import ApiError, Conflict
from server.functions.codestore import CodeStore
from server.functions.handlers import split_handler
from server.functions.model import Function
from server.scf.actions.model import Ask
from server.scf.errors import OwnCodes, ScfError, scf_error
from server.scf.parameters import Parameters

#: A larger entry file is not shown (SCF, GetFunction).
SHOWN_BYTES: Final = 1024 * 1024
_COS: Final = ("CosBucketName", "CosObjectName", "CosBucketRegion")
_CODES: Final[OwnCodes] = {
    "bucket": "InvalidParameterValue.CosBucketName",
    "key": "InvalidParameterValue.CosObjectName",
    "bucket_not_found": "ResourceNotFound.Cos",
    "object_not_found": "ResourceNotFound.CosObject",
    Conflict: "FailedOperation.Cos",
}


def has_code(parameters: Parameters) -> bool:
    """Whether a request that may have none names any, in the places of API 2.0."""
    return any(parameters.text(field) for field in ("ZipFile", *_COS))


async def package_of(ask: Ask, name: str = "Code") -> str | bytes:
    """A package: the base64 in Code.ZipFile (a layer's is Content.ZipFile), or in ZipFile itself as older clients have it; or the bytes of
    the object that CosBucketName and CosObjectName tell in the same places, out of a bucket that the pair may read.

    Raises ScfError for every other source. Line breaks, as base64(1) makes them, are taken out.
    """
    parameters = ask.parameters
    code = parameters.object(name) or Parameters({})
    text = code.text("ZipFile") or parameters.text("ZipFile")
    if text:
        return "".join(text.split()) if "\n" in text else text
    if code.object("ImageConfig") is not None:
        raise ScfError(
            "ResourceNotFound.ImageConfig", f"functions from a container image are not supported: upload a zip as {name}.ZipFile"
        )
    for place in (code, parameters):
        if any(place.text(field) for field in _COS):
            return await _object(ask, place.required("CosBucketName"), place.required("CosObjectName"))
        if place.text("TempCosObjectName"):
            raise ScfError(
                "InvalidParameterValue.TempCosObjectName", f"only the cloud's console has such objects: give {name}.CosObjectName"
            )
    if code.text("DemoId"):
        raise ScfError("ResourceNotFound.Demo", f"there are no demonstration functions here: upload code as {name}.ZipFile")
    if code.text("GitUrl"):
        raise ScfError("UnsupportedOperation", f"code from a git repository is not supported: upload a zip as {name}.ZipFile")
    raise ScfError("MissingParameter.Code", f"the request has no code: upload a zip as {name}.ZipFile")


async def _object(ask: Ask, bucket: str, key: str) -> bytes:
    read = partial(ask.services.packages.read, bucket, key, ask.namespace(), others=not ask.credential.namespace)
    try:
        return await ask.services.uploads.run(read)
    except ApiError as error:
        raise scf_error(error, _CODES) from error


def entry_file(store: CodeStore, function: Function) -> str:
    """The text of the handler's file; empty where there is no such text to show. Blocking."""
    file, _ = split_handler(function.handler)
    for name in (f"{file}.py", f"{file}/__init__.py"):
        path = store.path(function.code) / name
        if path.is_file() and path.stat().st_size <= SHOWN_BYTES:
            return path.read_text(encoding="utf-8", errors="replace")
    return ""
