"""Which names this API answers to, and the pages of which sites may call it from a browser."""

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from orchestrator.errors import Forbidden
from orchestrator.settings import LOOPBACK, Settings


class Origins:
    """Checks the ``Host`` and ``Origin`` headers.

    A page can have its own name resolve to an address of this machine, and would then be of the same origin as this
    API: so only names known beforehand are answered. A bare address cannot be made to point elsewhere.
    """

    def __init__(self, settings: Settings) -> None:
        self._pages = frozenset(settings.origins)
        self._anywhere = settings.auth == "on"
        names = {*LOOPBACK, settings.host, *settings.hosts}
        if self._anywhere:
            names |= {socket.gethostname(), urlsplit(settings.public_url).hostname or ""}
        self._names = frozenset(name.lower() for name in names if name and not name.startswith("*"))
        self._endings = tuple(name[1:].lower() for name in settings.hosts if name.startswith("*."))
        self._all = self._anywhere and "*" in settings.hosts

    def check(self, connection: HTTPConnection) -> None:
        """Raise unless the request is for this API and from no stranger's page.

        Raises:
            Forbidden: it is not.
        """
        host = connection.headers.get("host", "")
        if not self.answers_to(host):
            raise Forbidden(
                "this name is not answered" if self._anywhere else "without auth only loopback names are answered",
                suggestion="add it to SAEFORGE_ALLOWED_HOSTS" if self._anywhere else "use http://127.0.0.1",
            )
        origin = connection.headers.get("origin")
        # Browsers name the page a request comes from; other clients do not.
        if origin is None or origin in self._pages or origin.split("://", 1)[-1] == host:
            return
        raise Forbidden("pages of this site may not use this API", suggestion="add it to SAEFORGE_ALLOWED_ORIGINS")

    def answers_to(self, host: str) -> bool:
        """Whether ``host``, a ``Host`` header, is a name of this API."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return (
            self._all
            or name in self._names
            or (bool(self._endings) and name.endswith(self._endings))
            or (self._anywhere and _is_address(name))
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
