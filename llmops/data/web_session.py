"""Sessions with web servers. No redirect leads them to an internal address.

A source names a server, which may be internal: a wiki of the company. A redirect comes from whoever writes that
server's pages. It may lead to public addresses; within the machine or its network, only to the source's own server. The
rule is applied where a socket is made, so that it holds for addresses, names, and names that change between look-ups.
"""

import errno
import socket
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import aiohttp

_HTTP, _HTTPS = 80, 443


class InternalAddressError(PermissionError):
    """A redirect leads to an internal address."""


async def open_session(url: str, **options: Any) -> "aiohttp.ClientSession":
    """Open a session for a source's URL. `options` are aiohttp's."""
    import aiohttp

    connector = aiohttp.TCPConnector(socket_factory=partial(make_socket, url))
    return aiohttp.ClientSession(connector=connector, **options)


def make_socket(url: str, target: tuple[Any, ...]) -> socket.socket:
    """Return a socket for a connection to `target`, which `url` or one of its redirects leads to.

    `target` has the form of a result of `socket.getaddrinfo`.

    Raises:
        InternalAddressError: if the target is internal and not the server of `url`.
    """
    family, kind, protocol, _, address = target
    ip = ip_address(address[0])
    ip = ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
    if not ip.is_global and address[:2] not in _find_server(url):
        raise InternalAddressError(errno.EACCES, "a redirect may not lead to an internal address")
    return socket.socket(family, kind, protocol)


def find_internal_redirect(error: BaseException | None) -> Any:
    """Return the refused connection that caused an error, a `ClientConnectorError`; None if another thing did."""
    while error and not isinstance(error.__cause__, InternalAddressError):
        error = error.__cause__
    return error


def _find_server(url: str) -> set[tuple[Any, ...]]:
    """Return the addresses and ports of a URL's server; its port for https, too, as many servers redirect to it."""
    parts = urlsplit(url)
    ports = {parts.port or (_HTTPS if parts.scheme.lower() == "https" else _HTTP), _HTTPS}
    found = [socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM) for port in ports]
    return {info[4][:2] for infos in found for info in infos}
