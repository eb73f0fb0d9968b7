"""Which addresses a notice may be sent to: the guard against server-side request forgery, as a pure question.

A channel's URL is a setting, but its name is resolved by somebody else's DNS, and the notifier stands inside the
network. So loopback, private and link-local addresses are refused unless the channel allows private ones; addresses
that hand out credentials, and those that name no single host, are refused always.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google Cloud, OpenStack and others
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # AWS EKS pod identity over IPv6
        "fd20:ce::254",  # Google Cloud over IPv6
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure's host: looks public
        "192.0.0.192",  # Oracle Cloud
    )
)
_NAT64 = ip_network("64:ff9b::/96")
_SHARED = ip_network("100.64.0.0/10")


def refusal(address: Address, *, allow_private: bool) -> str | None:
    """None when the address may be called, or what it is: `a loopback address`."""
    address = unwrapped(address)
    if address in METADATA:
        return "a cloud metadata address"
    if address.is_unspecified or address.is_multicast or address == IPv4Address("255.255.255.255"):
        return "an address of no single host"
    if address.is_link_local:
        return "a link-local address"
    if is_private(address):
        if allow_private:
            return None
        return "a loopback address" if address.is_loopback else "a private address"
    if address.is_reserved or not address.is_global:
        return "a reserved address"
    return None


def is_private(address: Address) -> bool:
    """Loopback, RFC 1918, shared (RFC 6598) and unique local addresses: a network of one's own."""
    address = unwrapped(address)
    if address.is_loopback:
        return True
    if isinstance(address, IPv4Address):
        return address in _SHARED or any(address in net for net in _RFC1918)
    return address in _UNIQUE_LOCAL or address.is_site_local


_RFC1918 = tuple(ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
_UNIQUE_LOCAL = ip_network("fc00::/7")


def unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (mapped, NAT64, 6to4), where it stands for one."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or address
