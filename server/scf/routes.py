"""The paths of SCF's interfaces. They carry their own signatures, so the bearer credential is not asked for there, and only there."""

from __future__ import annotations

from server.api.services import Services
from server.scf.api2 import Api2
from server.scf.api3 import Api3
from server.scf.authentication import Authentication
from server.scf.download import PATH, CodeDownload


def routes(services: Services) -> dict[str, object]:
    """Path → resource; the paths are `server.api.auth.SIGNED_PATHS`."""
    authentication = Authentication(services)
    return {"/": Api3(services, authentication), "/v2/index.php": Api2(services, authentication), PATH: CodeDownload(services)}
