"""A device's settings under /proc/sys/net, without which its descriptor's holder could configure the host.

By default one Router Advertisement written into a TUN puts a default route into the host's main
table. Everything is set while the link is down, and again whenever the kernel has forgotten it
(see Documentation/networking/ip-sysctl.rst).
"""

from __future__ import annotations

import errno
import os
from typing import Final

from coentro.model import MIN_MTU_V6
from coentro.netops.linux.tun import NAME

_ROOT: Final = "/proc/sys/net"

_IPV4: Final = (
    ("accept_redirects", "0"),
    # On a host accept_redirects holds if this device's or `all`'s is set, so it is not enough. A
    # redirect has to come from the gateway that it replaces (ip_do_redirect): with a strict reverse
    # path nothing comes in here from an address that is not reached through here (RFC 3704 2.2).
    ("rp_filter", "1"),
    # Of two addresses of one network the second would go with the first.
    ("promote_secondaries", "1"),
    # Whoever holds the descriptor can take the carrier away, and with it the routes where this is on.
    ("ignore_routes_with_linkdown", "0"),
)
_IPV6: Final = (
    ("disable_ipv6", "1"),
    ("addr_gen_mode", "1"),
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
    ("autoconf", "0"),
    ("ignore_routes_with_linkdown", "0"),
)


def harden(name: str, mtu: int) -> None:
    """Make the device take nothing from what is written into it, and switch IPv6 off.

    The link must be down. Errors: OSError, ENODEV for a device that has gone.
    """
    for setting, value in _IPV4:
        _write(_path(name, 4, setting), value)
    if mtu < MIN_MTU_V6 or not kernel_has_ipv6():
        return
    for setting, value in _IPV6:
        _write(_path(name, 6, setting), value)


def enable_ipv6(name: str) -> None:
    """Let the device have IPv6. Errors: OSError, EAFNOSUPPORT where the kernel has none."""
    if not kernel_has_ipv6():
        raise OSError(errno.EAFNOSUPPORT, "this kernel runs without IPv6 (ipv6.disable=1)", name)
    _write(_path(name, 6, "disable_ipv6"), "0")


def disable_ipv6(name: str) -> None:
    """Take IPv6 off the device, with its addresses and routes.

    Errors: OSError, ENODEV for a device that has gone or that can have no IPv6.
    """
    _write(_path(name, 6, "disable_ipv6"), "1")


def has_ipv6(name: str) -> bool:
    """Whether IPv6 is on. False for a device that has gone."""
    try:
        fd = os.open(_path(name, 6, "disable_ipv6"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return os.read(fd, 16).strip() == b"0"
    finally:
        os.close(fd)


def kernel_has_ipv6() -> bool:
    """Whether any device can have IPv6."""
    return os.path.isdir(f"{_ROOT}/ipv6/conf")


def _path(name: str, family: int, setting: str) -> str:
    # The kernel chose the name from our own prefix: a name that is something else is a fault, not a path.
    if not NAME.match(name):
        raise ValueError(f"not a device of ours: {name!r}")
    return f"{_ROOT}/ipv{family}/conf/{name}/{setting}"


def _write(path: str, value: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode("ascii"))
        finally:
            os.close(fd)
    except FileNotFoundError:
        # write(2) says so as well, when the device goes after the open.
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path) from None
