"""Which address asks: what a caller may write into a header is not believed."""

import ipaddress
from typing import Any

from django.conf import settings

# What one customer of a provider is given; each may take a new address for each request.
_COUNTED_IPV6_BITS = 64


def client_address(request: Any) -> str:
    """Return the client's address; empty where the server knows none (a Unix socket).

    It is the peer's. Behind a proxy of ours (TRUST_PROXY) it is the last hop that
    X-Forwarded-For names: that one our proxy has written, all others the caller may have.

    Args:
        request: Django's or REST framework's.
    """
    meta = request.META
    if settings.TRUST_PROXY:
        last_hop = str(meta.get("HTTP_X_FORWARDED_FOR", "")).rpartition(",")[2]
        if address := _read(last_hop):
            return str(address)
    return str(_read(str(meta.get("REMOTE_ADDR", ""))) or "")


def counted_address(request: Any) -> str | None:
    """Return the address under which failures and requests are counted.

    For IPv6 it is the address of the network: within it addresses cost nothing.
    """
    address = _read(client_address(request))
    if address is None:
        return None
    if address.version == 4:  # noqa: PLR2004 -- IPv4
        return str(address)
    network = ipaddress.ip_network((address, _COUNTED_IPV6_BITS), strict=False)
    return str(network.network_address)


def _read(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address in a text, which may have a port, brackets and a zone."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
