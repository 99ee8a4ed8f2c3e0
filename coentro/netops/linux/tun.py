"""Opening a TUN: a device that lives as long as somebody holds one of its descriptors.

The kernel chooses the name, so that an open can never attach to a device that someone else
made persistent. See tun(4) and Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import ExitStack
from fcntl import ioctl
from struct import Struct
from typing import Final

from attrs import frozen

DEVICE: Final = "/dev/net/tun"
PREFIX: Final = "coentro"
NAME: Final = re.compile(rf"{PREFIX}[0-9]{{1,8}}\Z")

# linux/if_tun.h
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_MULTI_QUEUE: Final = 0x0100
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFREQ: Final = Struct("16sH22x")  # struct ifreq: name, flags

PACKET_INFO_BYTES: Final = 4  # struct tun_pi
VNET_HDR_BYTES: Final = 10  # struct virtio_net_hdr


@frozen
class Opened:
    """A device that was just made: its name, and one non-blocking descriptor per queue."""

    name: str
    fds: tuple[int, ...]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def open_tun(queues: int, *, vnet_hdr: bool, packet_info: bool) -> Opened:
    """Make a new device and open all its queues.

    Errors: OSError whose text says what to do; then no descriptor is left open.
    """
    flags = _IFF_TUN
    flags |= _IFF_VNET_HDR if vnet_hdr else 0
    flags |= 0 if packet_info else _IFF_NO_PI
    flags |= _IFF_MULTI_QUEUE if queues > 1 else 0
    name = PREFIX + "%d"
    fds: list[int] = []
    with ExitStack() as on_failure:
        for _ in range(queues):
            fd = _open()
            on_failure.callback(os.close, fd)
            name = _set_interface(fd, name, flags)
            fds.append(fd)
        on_failure.pop_all()
    return Opened(name, tuple(fds))


def _open() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise OSError(error.errno, _advice(error), DEVICE) from None


def _set_interface(fd: int, name: str, flags: int) -> str:
    """Bind a descriptor to a device; the name that the kernel gave it."""
    try:
        answer = ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    except OSError as error:
        raise OSError(error.errno, _advice(error), name) from None
    (given, _) = _IFREQ.unpack(answer)
    return str(given.rstrip(b"\0").decode("ascii"))


def _advice(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return "there is no TUN driver: load it (modprobe tun), or pass /dev/net/tun into the container"
        case errno.EACCES | errno.EPERM:
            return "a TUN needs CAP_NET_ADMIN and access to /dev/net/tun: run the helper as root"
        case errno.EMFILE | errno.ENFILE:
            return "no more descriptors can be opened: raise the limit (LimitNOFILE= of the service)"
        case _:
            return error.strerror or "opening a TUN failed"
