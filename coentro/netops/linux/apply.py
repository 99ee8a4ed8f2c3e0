"""One change of a plan as the kernel's own acts, and what it really did.

Everything is added exclusively: what exists already is somebody's, so it is a refusal and never
adopted. What shall go and is not there any more is no refusal. Every step says what was truly
done of it, since netlink goes on after an error in the middle of a batch. For one worker thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from errno import EADDRNOTAVAIL, EBUSY, EEXIST, EIO, ENOBUFS, ENODEV, ENOENT, ESRCH, errorcode
from fcntl import ioctl
from struct import Struct
from typing import Final

from coentro.netops.interface import Device, Failure
from coentro.netops.linux import host, sysctl, words
from coentro.netops.linux.desired import Address, Floor, Ipv6, Link, LinkSettings, Rule, Table, Up
from coentro.netops.linux.framing import Malformed
from coentro.netops.linux.messages import (
    FR_ACT_TO_TBL,
    RTPROT_KERNEL,
    encode_address_add,
    encode_address_delete,
    encode_link_delete,
    encode_link_set,
    encode_rule_add,
    encode_rule_delete,
)
from coentro.netops.linux.messages import Link as HostLink
from coentro.netops.linux.netlink import Netlink, Overrun
from coentro.netops.linux.routes import DEFAULT_METRIC, UNICAST, encode_route, last_resort
from coentro.netops.linux.transaction import Outcome
from coentro.netops.linux.tun import NAME, open_tun
from coentro.plan import Change, Op, Packed

ALIAS: Final = "coentro:"
_GONE: Final = frozenset({ESRCH, ENOENT, ENODEV, EADDRNOTAVAIL})
_NO_DEVICE: Final = 0
_SIOCGIFINDEX: Final = 0x8933  # netdevice(7)
_IFREQ_INDEX: Final = Struct("16si20x")
_ARPHRD_NONE: Final = 0xFFFE  # linux/if_arp.h: no link layer


def is_ours(link: HostLink) -> bool:
    """Whether a device bears our marks: its name, its alias, and that it is a TUN."""
    tun = link.kind == "tun" and link.hardware == _ARPHRD_NONE  # a TAP is of that kind, too
    return tun and NAME.match(link.name) is not None and link.alias.startswith(ALIAS)


class Applier:
    """Does changes, and holds the devices of the tunnels by their ids."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self.devices: dict[str, Device] = {}
        # While one table's entries are set, chunk after chunk: who else's stand in it.
        self._others: tuple[Table, frozenset[bytes]] | None = None

    def name_of(self, tunnel: str | None) -> str | None:
        device = self.devices.get(tunnel) if tunnel is not None else None
        return device.name if device is not None else None

    def step(self, change: Change) -> Outcome:
        """Do one change of at most Netlink.chunk routes. Never raises for what the system refuses."""
        if not (change.op is Op.SET and isinstance(change.key, Table)):
            self._others = None
        name = words.step(change, self.name_of)
        try:
            if isinstance(change.key, Table):
                return self._table(change)
            self._object(change)
        except OSError as error:
            if change.op is Op.DELETE and error.errno in _GONE:
                return Outcome(change)
            return Outcome(None, _failure(name, error.errno or EIO, error.strerror or str(error)))
        except (Overrun, Malformed) as error:
            # Whether it was done is not known: an undo takes away what is there, and that alone.
            return Outcome(change, _failure(name, ENOBUFS, str(error)))
        return Outcome(change)

    def release(self, tunnel: str) -> None:
        """Close the helper's own descriptors of a device."""
        device = self.devices.get(tunnel)
        if device is None:
            return
        self.devices[tunnel] = Device(device.name, device.index, ())
        _close(device.fds)

    def close(self) -> None:
        """Close all descriptors."""
        for tunnel in self.devices:
            self.release(tunnel)

    def _object(self, change: Change) -> None:
        key, op = change.key, change.op
        match key:
            case Link():
                self._link(key, change)
            case Ipv6():
                device = self._device(key.tunnel)
                act = sysctl.disable_ipv6 if op is Op.DELETE else sysctl.enable_ipv6
                act(device.name)
            case Up():
                index = self._device(key.tunnel).index
                self._netlink.request(encode_link_set(index, up=op is not Op.DELETE))
            case Address():
                index = self._device(key.tunnel).index
                encode = encode_address_delete if op is Op.DELETE else encode_address_add
                self._netlink.request(encode(index, key.address, key.length))
            case Floor():
                self._netlink.request(encode_route(op, last_resort(key.family, key.number)))
            case Rule():
                self._rule(key, op)

    def _device(self, tunnel: str) -> Device:
        device = self.devices.get(tunnel)
        if device is None:
            raise OSError(ENODEV, os.strerror(ENODEV))
        return device

    def _link(self, key: Link, change: Change) -> None:
        match change.op:
            case Op.ADD:
                self._open(key.tunnel, change.new)
            case Op.SET:
                self._set_mtu(self._device(key.tunnel), change.old, change.new)
            case Op.DELETE:
                self._delete_link(key.tunnel)

    def _open(self, tunnel: str, settings: LinkSettings) -> None:
        old = self.devices.get(tunnel)
        if old is not None:
            if any(link.index == old.index for link in host.links(self._netlink)):
                raise OSError(EEXIST, os.strerror(EEXIST))
            del self.devices[tunnel]
            _close(old.fds)
        opened = open_tun(settings.queues, vnet_hdr=settings.vnet_hdr, packet_info=settings.packet_info)
        try:
            index = _index_of(self._netlink, opened.name)
            self._netlink.request(encode_link_set(index, alias=ALIAS + tunnel, mtu=settings.mtu))
            sysctl.harden(opened.name, settings.mtu)
        except BaseException:
            # Nobody else has a descriptor yet, so this removes the device.
            opened.close()
            raise
        self.devices[tunnel] = Device(opened.name, index, opened.fds)

    def _set_mtu(self, device: Device, old: LinkSettings, new: LinkSettings) -> None:
        self._netlink.request(encode_link_set(device.index, mtu=new.mtu))
        if not Link("").disrupts(old, new):
            return
        try:
            sysctl.harden(device.name, new.mtu)
        except OSError:
            self._netlink.request(encode_link_set(device.index, mtu=old.mtu))
            raise

    def _delete_link(self, tunnel: str) -> None:
        """By index, if that still is ours: whoever holds a descriptor may have made the device
        persistent (TUNSETPERSIST asks for no privilege), so closing ours need not remove it."""
        device = self.devices.get(tunnel)
        if device is None:
            return
        # A list, since it comes in datagrams one at a time: one device's description and the
        # acknowledgement of the request for it may not fit into the buffer together.
        found = next((link for link in host.links(self._netlink) if link.index == device.index), None)
        if found is not None and is_ours(found) and found.alias == ALIAS + tunnel:
            try:
                self._netlink.request(encode_link_delete(device.index))
            except OSError as error:
                if error.errno not in _GONE:
                    raise
        del self.devices[tunnel]
        _close(device.fds)

    def _rule(self, key: Rule, op: Op) -> None:
        if op is not Op.DELETE:
            self._netlink.request(encode_rule_add(key.family, key.priority, key.table))
            return
        # To the kernel a delete also means a rule with further selectors, and it takes the first.
        same = [
            rule
            for rule in host.rules(self._netlink)
            if (rule.family, rule.priority, rule.table) == (key.family, key.priority, key.table)
            and (rule.protocol, rule.action) == (RTPROT_KERNEL, FR_ACT_TO_TBL)
        ]
        if not any(rule.plain for rule in same):
            return
        if not same[0].plain:
            raise OSError(EBUSY, "a rule of somebody else's with the same priority stands before ours")
        self._netlink.request(encode_rule_delete(key.family, key.priority, key.table))

    def _table(self, change: Change) -> Outcome:
        """At most a chunk of a table's entries."""
        key: Table = change.key
        packed: Packed = change.old if change.op is Op.DELETE else change.new
        device = self.devices.get(key.tunnel) if key.tunnel is not None else None
        index = device.index if device is not None else _NO_DEVICE
        if device is None and UNICAST in packed.data[packed.width :: packed.width + 1]:
            if change.op is not Op.DELETE:
                raise OSError(ENODEV, os.strerror(ENODEV))
            # They went with their device.
            packed = key.left_by_link(packed) or Packed(packed.width, b"")
        if change.op is Op.SET:
            self._check_others(key, index, packed)
        try:
            refused = self._netlink.routes(change.op, key.family, key.number, index, packed.data)
        except (Overrun, Malformed):
            return self._resync(change, packed, index)
        if change.op is Op.DELETE:
            refused = [(at, code) for at, code in refused if code not in _GONE]
        if not refused:
            return Outcome(change)
        at, code = refused[0]
        entries = list(packed.entries())
        failed = [entries[i] for i, _ in refused]
        done = _without(change, failed)
        failure = self._route_failure(change, entries[at], code)
        return Outcome(done, failure)

    def _check_others(self, key: Table, index: int, packed: Packed) -> None:
        """A SET replaces whatever stands there: see that it is not somebody else's."""
        if self._others is None or self._others[0] != key:
            _, foreign = host.packed_table(self._netlink, key.family, key.number, index)
            metric = DEFAULT_METRIC[key.family]
            others = frozenset(r.destination.packed for r in foreign if r.metric == metric)
            self._others = key, others
        _, others = self._others
        if others and any(entry[:-1] in others for entry in packed.entries()):
            raise OSError(EEXIST, os.strerror(EEXIST))

    def _resync(self, change: Change, packed: Packed, index: int) -> Outcome:
        """Answers were lost, so look what of this chunk is true."""
        key = change.key
        found, _ = host.packed_table(self._netlink, key.family, key.number, index)
        stands = set(found.entries())
        wanted = change.op is not Op.DELETE
        missed = [entry for entry in packed.entries() if (entry in stands) is not wanted]
        if not missed:
            return Outcome(change)
        return Outcome(_without(change, missed), self._route_failure(change, missed[0], ENOBUFS))

    def _route_failure(self, change: Change, entry: bytes, code: int) -> Failure:
        one = Packed(len(entry) - 1, entry)
        only = Change(change.op, change.key, old=one, new=None if change.op is Op.DELETE else one)
        return _failure(words.step(only, self.name_of), code, os.strerror(code))


def _without(change: Change, failed: Iterable[bytes]) -> Change | None:
    """What of a table's change was done; None: nothing."""
    keys = {entry[:-1] for entry in failed}
    old, new = (
        None if p is None else Packed(p.width, b"".join(e for e in p.entries() if e[:-1] not in keys))
        for p in (change.old, change.new)
    )
    if not (old or new):
        return None
    return Change(change.op, change.key, old, new)


def _failure(op: str, code: int, message: str) -> Failure:
    return Failure(op, errorcode.get(code, str(code)), message)


def _index_of(netlink: Netlink, name: str) -> int:
    """if_nametoindex(3) opens a socket of its own, which fails where descriptors are short."""
    answer = ioctl(netlink.sock, _SIOCGIFINDEX, _IFREQ_INDEX.pack(name.encode(), 0))
    return int(_IFREQ_INDEX.unpack(answer)[1])


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
