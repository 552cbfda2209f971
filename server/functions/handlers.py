"""What `runtime` and `handler` may say, and which file of a package a handler means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from server.errors import BadRequest, Unsupported

_RUNTIME = re.compile(r"python([23])(?:\.(\d{1,2}))?", re.IGNORECASE | re.ASCII)
_HANDLER = re.compile(r"(?P<file>[A-Za-z0-9_\-./]{1,128})\.(?P<function>[A-Za-z_][A-Za-z0-9_]{0,127})", re.ASCII)
#: What Python imports for one module name, in a package's directory.
_MODULE_FORMS: Final = ("{}.py", "{}/__init__.py", "{}.pyc", "{}.so")


def normalised_runtime(value: str) -> str:
    """`PYTHON3.6` is `Python3.6`, `Python3` is `python3`: as SCF and DESIGN spell them. Raises BadRequest."""
    match = _RUNTIME.fullmatch(value)
    if match is None:
        raise Unsupported(
            f"runtime {value!r} is not supported",
            field="runtime",
            code="invalid_runtime",
            hint="use python3, python2 or a version such as Python3.6 or Python2.7",
        )
    major, minor = match.groups()
    return f"Python{major}.{int(minor)}" if minor else f"python{major}"


def runs_on(runtime: str, declared: Iterable[str]) -> bool:
    """Whether what declares these runtimes fits a function of `runtime`, both normalised; `python3` is any Python3.x, either way round."""
    return any(runtime == one or _is_family(runtime, one) or _is_family(one, runtime) for one in declared)


def _is_family(family: str, runtime: str) -> bool:
    return family in ("python2", "python3") and runtime.lower().startswith(f"{family}.")


def split_handler(value: str) -> tuple[str, str]:
    """`src/index.main_handler` is ("src/index", "main_handler"). Raises BadRequest."""
    match = _HANDLER.fullmatch(value)
    file = match["file"] if match else ""
    if match is None or file.startswith("/") or any(part in ("", ".", "..") for part in file.split("/")):
        raise BadRequest(
            f"handler {value!r} is not of the form file.function",
            field="handler",
            code="invalid_handler",
            hint="index.main_handler is main_handler in index.py; each part has 1 to 128 letters, digits, _ or -",
        )
    return file, match["function"]


def require_handler(tree: Path, handler: str, runtime: str) -> None:
    """Raise BadRequest when `tree` has no file for the handler. Without a handler there is nothing to require."""
    if not handler:
        return
    file, _ = split_handler(handler)
    if any((tree / form.format(file)).is_file() for form in _MODULE_FORMS) or _extension_module(tree / file):
        return
    raise BadRequest(
        f"handler {handler!r}: there is no {file}.py in the package",
        field="handler",
        code="handler_file_missing",
        hint=_advice(tree, file, handler) or f"the package has {_listing(tree)} at its top",
    )


def _extension_module(stem: Path) -> bool:
    """`index.cpython-36m-x86_64-linux-gnu.so` and `index.abi3.so` are modules named `index`."""
    if not stem.parent.is_dir():
        return False
    return any(path.name.startswith(f"{stem.name}.") and path.suffix == ".so" for path in stem.parent.iterdir())


def _advice(tree: Path, file: str, handler: str) -> str:
    """The common slip: the directory was zipped instead of what is in it."""
    for path in sorted(tree.iterdir()):
        if path.is_dir() and (path / f"{file}.py").is_file():
            return f"it is in {path.name}/: zip the directory's content, or use the handler {path.name}/{handler}"
    return ""


def _listing(tree: Path) -> str:
    names = sorted(path.name for path in tree.iterdir())
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
