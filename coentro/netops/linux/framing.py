"""The envelope of netlink: headers, attributes and acknowledgements, as bytes.

Pure. A reader never looks past the length that a header gives and raises `Malformed`, and
nothing else, for whatever it can't read: one loop over a wire format that is data, as in
golang.org/x/net/route. Layouts are those of netlink(7) and linux/netlink.h, in host order.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

HEADER: Final = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
HEADER_BYTES: Final = 16
SEQUENCE_AT: Final = 8
FLAGS_AT: Final = 6

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

NLM_F_REQUEST: Final = 0x01
NLM_F_ACK: Final = 0x04
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP_FILTERED: Final = 0x20
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200

NLA_F_NESTED: Final = 0x8000
_NLA_TYPE: Final = 0x3FFF
_NLMSGERR_ATTR_MSG: Final = 1

U8: Final = Struct("=B")
U16: Final = Struct("=H")
U32: Final = Struct("=I")
I32: Final = Struct("=i")
_ATTRIBUTE: Final = Struct("=HH")  # struct nlattr: length, type


class Malformed(ValueError):
    """Bytes that no kernel would send."""


Attributes = dict[int, bytes]


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """A request of one message; the socket writes the sequence number into it when it is sent."""
    return HEADER.pack(HEADER_BYTES + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body


def iter_messages(buffer: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """(type, flags, sequence, port, payload) of each message of one datagram."""
    for offset, length in iter_spans(buffer):
        _, kind, flags, sequence, port = HEADER.unpack_from(buffer, offset)
        yield kind, flags, sequence, port, buffer[offset + HEADER_BYTES : offset + length]


def iter_spans(buffer: bytes) -> Iterator[tuple[int, int]]:
    """Where each message of a datagram begins and how long it is, header included."""
    offset, end = 0, len(buffer)
    while offset < end:
        if end - offset < HEADER_BYTES:
            raise Malformed(f"{end - offset} bytes left where a message header is due")
        (length,) = U32.unpack_from(buffer, offset)
        if not HEADER_BYTES <= length <= end - offset:
            raise Malformed(f"a message of {length} bytes in the {end - offset} that are left")
        yield offset, length
        offset += length + 3 & ~3


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to the next."""
    length = 4 + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length & 3)


def attributes(payload: bytes, offset: int) -> Attributes:
    """The attributes after a fixed part of `offset` bytes, by type; the last of a type counts,
    as in the kernel's nla_parse."""
    found: Attributes = {}
    end = len(payload)
    while offset < end:
        if end - offset < 4:
            raise Malformed(f"{end - offset} bytes left where an attribute is due")
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if not 4 <= length <= end - offset:
            raise Malformed(f"an attribute of {length} bytes in the {end - offset} that are left")
        found[kind & _NLA_TYPE] = payload[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def number(layout: Struct, data: bytes | None, default: int = 0) -> int:
    """An integer attribute, or the default where the kernel leaves it out."""
    if data is None:
        return default
    if len(data) != layout.size:
        raise Malformed(f"an integer of {len(data)} bytes, not {layout.size}")
    (value,) = layout.unpack(data)
    return int(value)


def text(data: bytes | None) -> str:
    """A NUL-terminated text. The kernel allows any bytes in names: what is not UTF-8 is
    escaped, since these texts end in JSON."""
    return (data or b"").partition(b"\0")[0].decode("utf-8", "backslashreplace")


def fixed(layout: Struct, payload: bytes) -> tuple[int, ...]:
    """The fixed part that a family's message begins with."""
    if len(payload) < layout.size:
        raise Malformed(f"{len(payload)} bytes where a fixed part of {layout.size} is due")
    return layout.unpack_from(payload)


def error_code(payload: bytes) -> int:
    """The errno (0: done) of an NLMSG_ERROR, or of an NLMSG_DONE that ends a dump."""
    if len(payload) < 4:
        raise Malformed("an acknowledgement without its code")
    (code,) = I32.unpack_from(payload)
    if code > 0:
        raise Malformed(f"an acknowledgement with the code {code}")
    return -int(code)


def error_text(flags: int, payload: bytes) -> str:
    """The kernel's own words of an NLMSG_ERROR (NETLINK_EXT_ACK), empty where it has none."""
    if not flags & NLM_F_ACK_TLVS or len(payload) < 4 + HEADER_BYTES:
        return ""
    (length,) = U32.unpack_from(payload, 4)
    quoted = HEADER_BYTES if flags & NLM_F_CAPPED else length + 3 & ~3
    return text(attributes(payload, 4 + quoted).get(_NLMSGERR_ATTR_MSG))
