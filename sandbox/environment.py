"""SCF's environment variables and call context (scf-interface.md sections 4.2 and 4.3)."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from typing import Any

from sandbox.spec import FunctionSpec

#: What every program in a sandbox sees. LD_LIBRARY_PATH is read by the loader at exec only, so zygotes are exec'd with it.
BASE: dict[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/home/qcloud",
    "USER": "qcloud",
    "LOGNAME": "qcloud",
    "SHELL": "/bin/bash",
    "TZ": "UTC",
    "PWD": "/var/user",
    "HOSTNAME": "sandbox",
    "LD_LIBRARY_PATH": "/var/runtime/java8:/var/user:/opt",
    "PYTHONDONTWRITEBYTECODE": "x",
    "USER_CODE_ROOT": "/var/user/",
    "TENCENTCLOUD_RUNENV": "SCF",
    "TENCENTCLOUD_TZ": "UTC",
    "OPENBLAS_NUM_THREADS": "1",  # a preloaded numpy must not start threads in a zygote
    "_SCF_SERVER_PORT": "28902",
}


def locale_of(root: str) -> str:
    """SCF's `en_US.UTF8` where the image at `root` has it (CentOS does), else the C library's own UTF-8 locale: a name that does not
    exist makes every shell in the sandbox complain and Python 3.6 fall back to ASCII. An image that has neither, as a CentOS put
    together from packages whose scripts never ran, gets SCF's name."""
    directory = os.path.join(root, "usr/lib/locale")
    if os.path.isdir(os.path.join(directory, "en_US.utf8")) or _archived(directory):
        return "en_US.UTF8"
    return "C.UTF-8" if _has_c_utf8(root, directory) else "en_US.UTF8"


def _archived(directory: str) -> bool:
    try:
        with open(os.path.join(directory, "locale-archive"), "rb") as archive:
            return b"en_US.utf8" in archive.read(1024 * 1024)
    except OSError:
        return False


def _has_c_utf8(root: str, directory: str) -> bool:
    """Distributions before glibc 2.35 have it as a file or not at all, later ones and musl in the library.

    Up to 2.33 the library's name says its version: libc-2.17.so.
    """
    if any(os.path.isdir(os.path.join(directory, name)) for name in ("C.UTF-8", "C.utf8")):
        return True
    return not glob.glob(f"{glob.escape(root)}/usr/lib*/libc-2.*.so")


def for_exec(locale: str, spec: FunctionSpec | None = None) -> dict[str, str]:
    """What an interpreter is started with. PYTHONPATH comes later, with the load frame: a package's own json.py must not
    replace the one that the guest program imports."""
    return {**BASE, "LANG": locale, "LC_ALL": locale, **(spec.environment if spec else {})}


def for_function(spec: FunctionSpec, region: str, locale: str, grant: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a function's process; the user's own variables win over the general ones, not over SCF's.

    `grant` is the sandbox's own credential (`sandbox.credentials`).
    """
    return {
        **BASE,
        "LANG": locale,
        "LC_ALL": locale,
        "PYTHONPATH": "/var/user:/opt",
        **spec.environment,
        "TENCENTCLOUD_REGION": region,
        "TENCENTCLOUD_APPID": "1250000000",
        "TENCENTCLOUD_UIN": "100000000001",
        "SCF_NAMESPACE": spec.namespace,
        "SCF_FUNCTIONNAME": spec.name,
        "SCF_FUNCTIONVERSION": spec.version,
        "SCF_RUNTIME": spec.runtime,
        "SCF_HANDLER": spec.handler,
        **(_granted(grant) if grant else {}),
    }


def _granted(grant: Mapping[str, str]) -> dict[str, str]:
    """The endpoints are ours: where the SDKs find this server's interfaces (see guest/worker.py), from a network that leads there."""
    given = {
        "TENCENTCLOUD_SECRETID": grant["secret_id"],
        "TENCENTCLOUD_SECRETKEY": grant["secret_key"],
        "TENCENTCLOUD_SESSIONTOKEN": grant["token"],
    }
    if grant["endpoint"]:
        given |= {"TENCENTCLOUD_SCF_ENDPOINT": grant["endpoint"], "TENCENTCLOUD_SCF_PROTOCOL": "http"}
    if grant["bucket_endpoint"]:
        given["TENCENTCLOUD_COS_ENDPOINT"] = grant["bucket_endpoint"]
    return given


def context(spec: FunctionSpec, region: str) -> dict[str, Any]:
    """The handler's second argument as the built-in runtimes pass it, but for `request_id`, which each call has of its own."""
    return {
        "memory_limit_in_mb": spec.memory_mb,
        "time_limit_in_ms": int(spec.timeout_seconds * 1000),
        "environment": json.dumps({**spec.environment, "SCF_NAMESPACE": spec.namespace}, separators=(",", ":")),
        "environ": f"SCF_NAMESPACE={spec.namespace}",
        "function_version": spec.version,
        "function_name": spec.name,
        "namespace": spec.namespace,
        "tencentcloud_region": region,
        "tencentcloud_appid": "1250000000",
        "tencentcloud_uin": "100000000001",
    }
