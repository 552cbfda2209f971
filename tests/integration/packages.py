"""Files of packages of our own environment, for functions that bring their SDKs as pip puts them beside the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

#: What each SDK needs.
COS = ("qcloud_cos", "requests", "urllib3", "certifi", "idna", "charset_normalizer", "crcmod", "Crypto", "xmltodict", "six")
BOTO3 = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six")
TENCENTCLOUD = ("tencentcloud", "requests", "urllib3", "certifi", "idna", "charset_normalizer")
#: Both bring every service of their cloud: hundreds of megabytes that nobody here wants.
_BOTOCORE_DATA = ("s3", "sts")
_TENCENTCLOUD_SERVICES = ("common", "scf")


def files_of(*names: str) -> dict[str, bytes]:
    """By their place in a function's package."""
    found: dict[str, bytes] = {}
    for name in dict.fromkeys(names):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, name
        origin = Path(spec.origin)
        if origin.name != "__init__.py":
            found[origin.name] = origin.read_bytes()
        else:
            root = origin.parent
            found |= {
                str(path.relative_to(root.parent)): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file() and _wanted(name, path.relative_to(root))
            }
    return found


def _wanted(package: str, path: Path) -> bool:
    """Of a file's place in its package."""
    parts = path.parts
    if not path.suffix or "__pycache__" in parts or "tests" in parts or "SelfTest" in parts:
        return False
    if package == "tencentcloud" and len(parts) > 1 and parts[0] not in _TENCENTCLOUD_SERVICES:
        return False
    return not (parts[0] == "data" and len(parts) > 2 and parts[1] not in _BOTOCORE_DATA)
