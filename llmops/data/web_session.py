"""Sessions with web servers. No redirect leads them to an internal address.

A source names a server, which may be internal: a wiki of the company. A redirect comes from whoever writes that
server's pages. It may lead to public addresses; within the machine or its network, only to the source's own server. The
rule is applied where a socket is made, so that it holds for addresses, names, and names that change between look-ups.
The source's own name may have any address, and another one at each look-up.
"""

import errno
import socket
from collections.abc import Container
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

_HTTPS = 443


class InternalAddressError(PermissionError):
    """A redirect leads to an internal address."""


async def open_session(url: str, **options: Any) -> "aiohttp.ClientSession":
    """Open a session for a source's URL. `options` are aiohttp's."""
    import aiohttp
    from yarl import URL

    server = URL(url)
    own = {str(server.host)}  # itself, if it is an address

    class Resolver(aiohttp.ThreadedResolver):
        async def resolve(self, host: str, *args: Any, **options: Any) -> Any:
            found = await super().resolve(host, *args, **options)
            if host == server.raw_host:
                own.update(one["host"] for one in found)
            return found

    make = partial(make_socket, own, {server.port, _HTTPS})  # many servers redirect to https
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Resolver(), socket_factory=make), **options)


def make_socket(own: Container[str], ports: Container[Any], target: tuple[Any, ...]) -> socket.socket:
    """Return a socket for a connection to `target`, which a source's URL or one of its redirects leads to.

    `own` and `ports` are the addresses and ports of the source's server. `target` has the form of a result of
    `socket.getaddrinfo`.

    Raises:
        InternalAddressError: if the target is internal and not the source's server.
    """
    family, kind, protocol, _, address = target
    ip = ip_address(address[0])
    ip = ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
    if not (ip.is_global or (address[0] in own and address[1] in ports)):
        raise InternalAddressError(errno.EACCES, "a redirect may not lead to an internal address")
    return socket.socket(family, kind, protocol)


def find_internal_redirect(error: BaseException | None) -> Any:
    """Return the refused connection that caused an error, a `ClientConnectorError`; None if another thing did."""
    while error and not isinstance(error.__cause__, InternalAddressError):
        error = error.__cause__
    return error
