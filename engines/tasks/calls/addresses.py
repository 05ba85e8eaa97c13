"""Which addresses anyone on the internet has, and which texts are names of hosts."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

__all__ = ["host_name", "is_address", "is_public"]

# What ``is_global`` of some versions of Python lets through, and where clouds keep credentials.
NOT_PUBLIC_4 = tuple(
    map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "224.0.0.0/4"))
)
UNICAST_6 = ip_network("2000::/3")
NOT_PUBLIC_6 = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
NAT64 = ip_network("64:ff9b::/96")
NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")


def is_address(host: str) -> bool:
    """Return whether a text is an address in its usual form."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def host_name(host: str) -> str:
    """Return a host in the form in which it is compared.

    Raises:
        ValueError: it is neither a name nor an address in its usual form; ``0x7f.1`` is neither.
    """
    name = host.lower().removesuffix(".")
    if is_address(name):
        return name
    if not NAME.fullmatch(name) or NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ValueError("is no name of a host")
    return name


def is_public(address: str) -> bool:
    """Return whether an address is none of a private, local, reserved or multicast range."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or (_last_4_bytes(found) if found in NAT64 else None)
        if inner is None:
            return found in UNICAST_6 and not any(found in each for each in NOT_PUBLIC_6)
        found = inner
    return found.is_global and not any(found in each for each in NOT_PUBLIC_4)


def _last_4_bytes(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)
