"""Scope: which addresses the guard lets through, as a table; that the guard is asked stands in test_transport."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline_notifier.address import refusal

PRIVATE = ["127.0.0.1", "127.8.9.1", "::1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"]
PRIVATE += ["fc00::1", "fd12:3456::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]
PRIVATE += ["2002:7f00:1::", "2002:c0a8:101::"]
NEVER = ["169.254.169.254", "169.254.170.2", "169.254.0.9", "fe80::1", "fd00:ec2::254", "100.100.100.200"]
NEVER += ["168.63.129.16", "192.0.0.192", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"]
NEVER += ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "192.0.2.1", "2001:db8::1"]
NEVER += ["64:ff9b:1::a9fe:a9fe", "2001:0:a9fe:a9fe::1", "::127.0.0.1", "0.1.2.3"]
PUBLIC = ["3.120.5.7", "93.184.215.14", "2606:2800:21f::1", "64:ff9b::378:507", "172.32.0.1", "100.128.0.1"]


@pytest.mark.parametrize("text", PRIVATE)
def test_a_private_address_is_refused_unless_allowed(text: str) -> None:
    assert refusal(ip_address(text), allow_private=False)
    assert refusal(ip_address(text), allow_private=True) is None


@pytest.mark.parametrize("text", NEVER)
def test_an_address_of_metadata_or_of_no_single_host_is_refused_even_when_private_is_allowed(text: str) -> None:
    assert refusal(ip_address(text), allow_private=True)
    assert refusal(ip_address(text), allow_private=False)


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_passes(text: str) -> None:
    assert refusal(ip_address(text), allow_private=False) is None


@given(st.ip_addresses())
def test_what_is_allowed_without_private_is_also_allowed_with_it(address: object) -> None:
    if refusal(address, allow_private=False) is None:  # type: ignore[arg-type]
        assert refusal(address, allow_private=True) is None  # type: ignore[arg-type]


@given(st.ip_addresses(v=4))
def test_an_address_gets_the_same_answer_however_ipv6_wraps_it(address: object) -> None:
    plain = refusal(address, allow_private=False)  # type: ignore[arg-type]
    assert refusal(ip_address(f"::ffff:{address}"), allow_private=False) == plain
    assert refusal(ip_address(0x0064FF9B << 96 | int(address)), allow_private=False) == plain  # type: ignore[call-overload]
