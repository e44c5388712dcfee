"""Where a call comes from."""

import ipaddress
from functools import lru_cache
from typing import Final

_IPV6_SITE_BITS: Final = 64


@lru_cache(maxsize=4096)
def source_key(address: str) -> str:
    """The part of a source address that one party commands: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((ip, _IPV6_SITE_BITS), strict=False))
    return str(ip)
