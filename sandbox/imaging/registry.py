"""Pull an image from a registry: skopeo(1) copies it into an OCI layout, then it is imported like an archive of one.

skopeo has the registries' protocols, the credentials and the machine's own policy (containers-policy.json(5)); what it brought is
checked here as any archive is.
"""

from __future__ import annotations

import re
from typing import Final

from sandbox.errors import ImageError
from sandbox.imaging import Progress, silent
from sandbox.imaging.layered import ARCHIVE, apply_archive
from sandbox.imaging.manifest import NO_PACKAGES, Manifest, complete
from sandbox.imaging.packages import Packages
from sandbox.imaging.store import staged
from sandbox.imaging.tool import BOUND, find_tool, run_tool
from sandbox.settings import Settings

_TRANSPORT: Final = "docker://"
_REFERENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,511}")
_SAID: Final = re.compile(r'.*?level=\w+ msg="?(.*?)"?$')


def pull_image(
    settings: Settings,
    reference: str,
    name: str,
    *,
    authfile: str = "",
    verify_tls: bool = True,
    progress: Progress = silent,
    force: bool = False,
    allow_empty: bool = False,
    packages: Packages = NO_PACKAGES,
) -> Manifest:
    """Pull `reference` ("python:3.11", "registry.local:5000/team/image@sha256:…") as image `name`; its manifest's `sha256` is the
    registry's digest of the image for this machine.

    Raises ImageError, and leaves nothing: skopeo is missing or failed (with its last words), or as `import_tarball` does.
    """
    reference = reference.removeprefix(_TRANSPORT)
    if not _REFERENCE.fullmatch(reference):
        raise ImageError(f"{reference!r} is not a reference to an image", hint="as in python:3.11 or registry.local:5000/team/image:tag")
    program = find_tool("skopeo")
    with staged(settings.images_dir, name, force=force) as stage:
        folder = stage / ARCHIVE
        options = [f"--src-tls-verify={str(verify_tls).lower()}", *([f"--src-authfile={authfile}"] if authfile else [])]
        _copy([program, f"--tmpdir={stage}", "copy", *options, f"{_TRANSPORT}{reference}", f"oci:{folder}"], reference, progress)
        container, _ = apply_archive(stage, "oci", shown=reference, progress=progress)
        return complete(
            stage,
            name,
            source=f"registry:{reference}",
            sha256=container.digest.partition(":")[2],
            folders=container.path_folders,
            progress=progress,
            packages=packages,
            allow_empty=allow_empty,
        )


def _copy(command: list[str], reference: str, progress: Progress) -> None:
    status, last = run_tool([*BOUND, *command], progress=progress, told=_told)
    if status:
        said = last[-1] if last else f"exit status {status}"
        hint = "is the registry reachable? --authfile FILE has credentials, --tls-verify=false allows plain HTTP"
        raise ImageError(f"skopeo could not pull {reference}: {said}", hint=hint)


def _told(line: str) -> str:
    """skopeo's errors come as `time="…" level=fatal msg="…"`."""
    matched = _SAID.match(line.strip())
    return matched[1].replace('\\"', '"') if matched else line
