"""XML, both ways: a small writer for answers, and readers for the bodies that operations take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from server.buckets.call import Dialect
from server.buckets.errors import BucketError
from server.buckets.multipart import MOST_PARTS, Chosen

#: Names and values in order; a value is text, a number, a truth, None (left out), or more of the same.
Elements = Iterable[tuple[str, Any]]

DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
#: XML 1.0 section 2.2 has no such characters; a reference is what S3 sends, and `encoding-type=url` what avoids it.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")
MOST_DELETED: Final = 1000


def document(dialect: Dialect, root: str, elements: Elements | str) -> bytes:
    """`elements` of the root, or its text."""
    attribute = f' xmlns="{dialect.namespace}"' if dialect.namespace else ""
    return f"{DECLARATION}<{root}{attribute}>{_value(elements)}</{root}>".encode()


def _inner(elements: Elements) -> str:
    return "".join(f"<{name}>{_value(value)}</{name.split(' ')[0]}>" for name, value in elements if value is not None)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _CONTROL.sub(lambda match: f"&#x{ord(match[0]):X};", escape(value))
    if isinstance(value, int):
        return str(value)
    return _inner(value)


class _Builder(ElementTree.TreeBuilder):
    """No document type: that is where entities come from."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise BucketError("MalformedXML")


def parse(body: bytes, root: str) -> ElementTree.Element:
    """The root element, names without namespaces. Raises BucketError (MalformedXML)."""
    try:
        tree = ElementTree.fromstring(body, ElementTree.XMLParser(target=_Builder()))
    except (ElementTree.ParseError, ValueError, LookupError):  # LookupError: an encoding that nobody knows
        raise BucketError("MalformedXML") from None
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2]
    if tree.tag != root:
        raise BucketError("MalformedXML")
    return tree


def deletions(body: bytes) -> tuple[list[str], bool]:
    """(keys, is it quiet) of a Delete. Raises BucketError."""
    tree = parse(body, "Delete")
    found = tree.findall("Object")
    keys = [element.findtext("Key") or "" for element in found]
    if not 0 < len(keys) <= MOST_DELETED or not all(keys):
        raise BucketError("MalformedXML")
    if any(element.findtext("VersionId") not in (None, "", "null") for element in found):
        raise BucketError("NotImplemented", "objects have no versions here")
    return keys, (tree.findtext("Quiet") or "").strip().lower() == "true"


def completion(body: bytes, algorithm: str) -> list[Chosen]:
    """The parts of a CompleteMultipartUpload, with their checksums of this algorithm. Raises BucketError."""
    parts = parse(body, "CompleteMultipartUpload").findall("Part")
    if not 0 < len(parts) <= MOST_PARTS:
        raise BucketError("MalformedXML")
    return [_chosen({child.tag: (child.text or "").strip() for child in part}, algorithm) for part in parts]


def _chosen(values: Mapping[str, str], algorithm: str) -> Chosen:
    number = values.get("PartNumber", "")
    if not (number.isascii() and number.isdecimal() and len(number) < 6 and values.get("ETag")):
        raise BucketError("MalformedXML")
    return Chosen(int(number), values["ETag"].strip('"').lower(), values.get(f"Checksum{algorithm.upper()}", "") if algorithm else "")
