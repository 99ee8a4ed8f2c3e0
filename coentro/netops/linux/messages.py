"""Links, addresses and rules as rtnetlink messages: values from bytes, bytes from values.

Pure; routes are next door in `routes` and `bulk`. Requests come without a sequence number,
which `netlink.Netlink` writes into them. The layouts and numbers are those of rtnetlink(7),
linux/if_link.h, linux/if_addr.h and linux/fib_rules.h.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from attrs import frozen

from coentro.netops.interface import Stats
from coentro.netops.linux.framing import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    U8,
    U32,
    Malformed,
    attribute,
    attributes,
    fixed,
    message,
    number,
    text,
)
from coentro.networks import AF, BITS, SIZE, Family

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34

IFF_UP: Final = 0x1
IFF_LOOPBACK: Final = 0x8
IFF_LOWER_UP: Final = 0x10000

IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINKINFO: Final = 18
IFLA_IFALIAS: Final = 20
IFLA_STATS64: Final = 23
IFLA_AF_SPEC: Final = 26
IFLA_INFO_KIND: Final = 1
IFLA_INET6_ADDR_GEN_MODE: Final = 8
IN6_ADDR_GEN_MODE_NONE: Final = 1

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
IFA_F_SECONDARY: Final = 0x01
IFA_F_NODAD: Final = 0x02
IFA_F_TENTATIVE: Final = 0x40
IFA_F_PERMANENT: Final = 0x80
IFA_F_NOPREFIXROUTE: Final = 0x200

FRA_PRIORITY: Final = 6
FRA_SUPPRESS_IFGROUP: Final = 13
FRA_SUPPRESS_PREFIXLEN: Final = 14
FRA_TABLE: Final = 15
FRA_PAD: Final = 18
FRA_PROTOCOL: Final = 21
FR_ACT_TO_TBL: Final = 1
FIB_RULE_INVERT: Final = 0x2

RTPROT_KERNEL: Final = 2

FAMILY: Final[dict[int, Family]] = {AF[4]: 4, AF[6]: 6}

_IFINFO: Final = Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR: Final = Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RULE: Final = Struct("=BBBBBxxBI")  # family, dst and src length, tos, table, action, flags
_STATS: Final = Struct("=QQQQ")  # the head of rtnl_link_stats64: packets in, out, bytes in, out


@frozen
class Link:
    """A network device. `kind` is empty for hardware and lo; `running`: it has a carrier;
    `hardware` is ARPHRD_*, which tells a TUN from a TAP.

    `family` is AF_UNSPEC but where the kernel tells of a bridge's port, which is no news of
    the device itself.
    """

    index: int
    name: str
    alias: str
    mtu: int
    up: bool
    running: bool
    loopback: bool
    kind: str
    stats: Stats
    family: int = 0
    hardware: int = 0


@frozen
class Address:
    """An address of a device. `flags` are IFA_F_*; `peer` is the other end's of a point-to-point
    address, whose prefix `length` then is."""

    index: int
    family: Family
    address: bytes
    length: int
    flags: int
    scope: int = 0
    peer: bytes | None = None


@frozen
class Rule:
    """A policy routing rule. `plain`: it looks at nothing but its table, for every packet."""

    family: Family
    priority: int
    table: int
    protocol: int
    action: int
    plain: bool


def family_of(number_: int) -> Family:
    """IPv4 or IPv6; Malformed for any other family."""
    family = FAMILY.get(number_)
    if family is None:
        raise Malformed(f"address family {number_}")
    return family


def decode_link(payload: bytes) -> Link:
    """From the payload of RTM_NEWLINK or RTM_DELLINK."""
    family, hardware, index, flags, _ = fixed(_IFINFO, payload)
    found = attributes(payload, _IFINFO.size)
    info = attributes(found.get(IFLA_LINKINFO, b""), 0)
    stats = Stats()
    if (counters := found.get(IFLA_STATS64)) is not None:
        packets_in, packets_out, bytes_in, bytes_out = fixed(_STATS, counters)
        stats = Stats(bytes_in, bytes_out, packets_in, packets_out)
    return Link(
        index,
        text(found.get(IFLA_IFNAME)),
        text(found.get(IFLA_IFALIAS)),
        number(U32, found.get(IFLA_MTU)),
        up=bool(flags & IFF_UP),
        running=bool(flags & IFF_LOWER_UP),
        loopback=bool(flags & IFF_LOOPBACK),
        kind=text(info.get(IFLA_INFO_KIND)),
        stats=stats,
        family=family,
        hardware=hardware,
    )


def encode_link_get(index: int) -> bytes:
    return message(RTM_GETLINK, NLM_F_ACK, _IFINFO.pack(0, 0, index, 0, 0))


def encode_link_dump() -> bytes:
    return message(RTM_GETLINK, NLM_F_DUMP, _IFINFO.pack(0, 0, 0, 0, 0))


def encode_link_set(
    index: int, *, up: bool | None = None, mtu: int | None = None, alias: str | None = None
) -> bytes:
    """Change what is given of a device; an empty alias removes it.

    The kernel sets MTU and alias before it raises or lowers the device, and does not take them
    back if a later one fails.
    """
    flags, change = (0, 0) if up is None else (IFF_UP if up else 0, IFF_UP)
    body = _IFINFO.pack(0, 0, index, flags, change)
    if mtu is not None:
        body += attribute(IFLA_MTU, U32.pack(mtu))
    if alias is not None:
        body += attribute(IFLA_IFALIAS, alias.encode())
    return message(RTM_NEWLINK, NLM_F_ACK, body)


def encode_link_addr_gen(index: int, mode: int = IN6_ADDR_GEN_MODE_NONE) -> bytes:
    """Which link-local IPv6 address the kernel makes up once the device is up.

    A message of its own, before the one that raises the device: within one message the kernel
    raises first (do_setlink).
    """
    inet6 = attribute(IFLA_INET6_ADDR_GEN_MODE, U8.pack(mode))
    spec = attribute(IFLA_AF_SPEC | NLA_F_NESTED, attribute(AF[6] | NLA_F_NESTED, inet6))
    return message(RTM_NEWLINK, NLM_F_ACK, _IFINFO.pack(0, 0, index, 0, 0) + spec)


def encode_link_delete(index: int) -> bytes:
    return message(RTM_DELLINK, NLM_F_ACK, _IFINFO.pack(0, 0, index, 0, 0))


def decode_address(payload: bytes) -> Address:
    """From the payload of RTM_NEWADDR or RTM_DELADDR."""
    af, length, flags, scope, index = fixed(_IFADDR, payload)
    family = family_of(af)
    found = attributes(payload, _IFADDR.size)
    # IFA_ADDRESS is the other end where there is one; IPv6 has no IFA_LOCAL otherwise (if_addr.h).
    far = found.get(IFA_ADDRESS)
    near = found.get(IFA_LOCAL, far)
    if near is None or len(near) != SIZE[family] or length > BITS[family]:
        raise Malformed("an address without an address")
    if far is not None and len(far) != SIZE[family]:
        raise Malformed(f"an IPv{family} address of {len(far)} bytes")
    peer = far if far != near else None
    return Address(index, family, near, length, number(U32, found.get(IFA_FLAGS), flags), scope, peer)


def encode_address_dump(family: Family) -> bytes:
    """All addresses of a family.

    Never those of one device alone: of such a list the kernel (6.18) does not say that it changed
    while it was read.
    """
    return message(RTM_GETADDR, NLM_F_DUMP, _IFADDR.pack(AF[family], 0, 0, 0, 0))


def encode_address_add(index: int, address: bytes, length: int) -> bytes:
    """Give a device an address whose prefix makes no route, and which waits for nobody.

    Without NOPREFIXROUTE the prefix would stand in the host's main table; duplicate address
    detection would keep an IPv6 address from use for a second on a link without neighbours.
    """
    flags = IFA_F_NOPREFIXROUTE | (IFA_F_NODAD if len(address) == 16 else 0)
    body = _address(index, address, length) + attribute(IFA_FLAGS, U32.pack(flags))
    return message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def encode_address_delete(index: int, address: bytes, length: int) -> bytes:
    return message(RTM_DELADDR, NLM_F_ACK, _address(index, address, length))


def _address(index: int, address: bytes, length: int) -> bytes:
    family = AF[4] if len(address) == 4 else AF[6]
    head = _IFADDR.pack(family, length, 0, 0, index)
    return head + attribute(IFA_LOCAL, address) + attribute(IFA_ADDRESS, address)


def decode_rule(payload: bytes) -> Rule:
    """From the payload of RTM_NEWRULE or RTM_DELRULE."""
    af, to, from_, tos, table, action, flags = fixed(_RULE, payload)
    found = attributes(payload, _RULE.size)
    plain = not (to or from_ or tos or flags & FIB_RULE_INVERT)
    for kind, value in found.items():
        if kind in (FRA_SUPPRESS_PREFIXLEN, FRA_SUPPRESS_IFGROUP):
            # The kernel says -1, "nothing suppressed", of every rule.
            plain = plain and value == b"\xff\xff\xff\xff"
        elif kind not in (FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL, FRA_PAD):
            plain = False
    return Rule(
        family_of(af),
        number(U32, found.get(FRA_PRIORITY)),
        number(U32, found.get(FRA_TABLE), table),
        number(U8, found.get(FRA_PROTOCOL)),
        action,
        plain,
    )


def encode_rule_dump(family: Family) -> bytes:
    return message(RTM_GETRULE, NLM_F_DUMP, _RULE.pack(AF[family], 0, 0, 0, 0, 0, 0))


def encode_rule_add(family: Family, priority: int, table: int) -> bytes:
    """A plain rule of protocol kernel: systemd-networkd removes rules of any other."""
    return message(RTM_NEWRULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, _rule(family, priority, table))


def encode_rule_delete(family: Family, priority: int, table: int) -> bytes:
    """Remove one rule of this priority, table and protocol kernel.

    To the kernel what a delete leaves out matches everything, so a rule that has a selector
    besides these three would match too: look first.
    """
    return message(RTM_DELRULE, NLM_F_ACK, _rule(family, priority, table))


def _rule(family: Family, priority: int, table: int) -> bytes:
    return (
        _RULE.pack(AF[family], 0, 0, 0, 0, FR_ACT_TO_TBL, 0)
        + attribute(FRA_PRIORITY, U32.pack(priority))
        + attribute(FRA_TABLE, U32.pack(table))
        + attribute(FRA_PROTOCOL, U8.pack(RTPROT_KERNEL))
    )
