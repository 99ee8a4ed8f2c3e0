"""`tunnel list|show|plan`, `down` and `routes`: what stands, and how it looks."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from coentro.client.errors import HelperError
from coentro.client.plain import Client
from coentro.ctl import faults, shown
from coentro.ctl.faults import Fault

PAGE = 10_000  # routes asked for at once: the most that a helper gives


def resolve(client: Client, name: str) -> dict[str, Any]:
    """The tunnel of a name or an id. Errors: Fault if there is none, or more than one."""
    tunnels = client.call("tunnel.list")["tunnels"]
    for tunnel in tunnels:
        if tunnel["id"] == name:
            return dict(tunnel)
    found = [t for t in tunnels if t["name"] == name]
    if len(found) == 1:
        return dict(found[0])
    if found:
        whose = ", ".join(f"{t['id']} of {owner(t)}" for t in found)
        raise faults.usage(
            f"{name} is the name of {len(found)} tunnels: {whose}", "give the id of one instead"
        )
    known = ", ".join(str(t["name"]) for t in tunnels)
    hint = f"there are: {known}" if known else "you have no tunnels"
    raise Fault(f"there is no tunnel {name}", faults.REFUSED, hint)


def owner(tunnel: Mapping[str, Any]) -> str:
    whose = tunnel["owner"]
    return str(whose.get("user") or f"uid {whose['uid']}")


def list_(client: Client, args: Namespace) -> Any:
    return client.call("tunnel.list")


def list_table(result: Any) -> Iterator[str]:
    tunnels = result["tunnels"]
    if not tunnels:
        yield "no tunnels"
        return
    rows = [
        (t["name"], t["id"], t["state"], t["interface"]["name"], owner(t), t["routes"]["total"],
         shown.size(t["stats"]["rx_bytes"]), shown.size(t["stats"]["tx_bytes"]))
        for t in tunnels
    ]  # fmt: skip
    yield shown.table(("NAME", "ID", "STATE", "DEVICE", "OWNER", "ROUTES", "RECEIVED", "SENT"), rows)
    for t in tunnels:
        for problem in t["problems"]:
            yield f"{shown.plain(t['name'])}: {shown.plain(problem)}"


def show(client: Client, args: Namespace) -> Any:
    return client.call("tunnel.get", {"id": resolve(client, args.name)["id"]})


def show_table(t: Any) -> Iterator[str]:
    spec, device, stats = t["spec"], t["interface"], t["stats"]
    rows: list[tuple[str, object]] = [
        ("name", t["name"]),
        ("id", t["id"]),
        ("state", t["state"]),
        ("owner", owner(t)),
        ("device", f"{device['name']} (index {device['index']}, MTU {device['mtu']})"),
        ("addresses", ", ".join(device["addresses"])),
        ("routes", _some(spec.get("routes", []), t["routes"]["total"])),
        ("exclude", _some(spec.get("exclude", []))),
        ("endpoints", _some([_endpoint(e) for e in spec.get("endpoints", [])])),
        ("block", _some(spec.get("block", []))),
        ("dns", ", ".join(t["dns"]["servers"]) if t.get("dns") else "-"),
        ("linger", shown.duration(spec.get("linger_s", 0))),
        ("created", t["created_at"]),
        ("ends", t.get("ends_at")),
        ("received", f"{shown.size(stats['rx_bytes'])} in {shown.count(stats['rx_packets'], 'packet')}"),
        ("sent", f"{shown.size(stats['tx_bytes'])} in {shown.count(stats['tx_packets'], 'packet')}"),
    ]
    rows += [("problem", problem) for problem in t["problems"]]
    yield shown.pairs(rows)


def _endpoint(endpoint: Any) -> str:
    if not isinstance(endpoint, Mapping):
        return str(endpoint)
    rest = [str(endpoint[k]) for k in ("port", "protocol") if endpoint.get(k) is not None]
    return " ".join([str(endpoint.get("address")), *rest])


def _some(texts: list[str], total: int | None = None, most: int = 4) -> str:
    total = len(texts) if total is None else total
    if not total:
        return "-"
    more = total - len(texts[:most])
    return ", ".join(texts[:most]) + (f" and {more} more" if more else "")


def plan(client: Client, args: Namespace) -> Any:
    try:
        return client.call("tunnel.plan", args.input)
    except HelperError as error:
        raise faults.of(error, args.profile) from None


def plan_table(result: Any) -> Iterator[str]:
    for conflict in result["conflicts"]:
        yield f"conflict: {shown.plain(faults.conflict(conflict))}"
    if not result["changes"]:
        yield "nothing would change"
        return
    # What changes stands last, since it is the longest and is not padded.
    rows = [
        (c["op"], c["count"], _undo(c["undo"]), _some(c["first"], c["count"], 2)) for c in result["changes"]
    ]
    yield shown.table(("CHANGE", "COUNT", "UNDONE BY", "WHAT"), rows)


def _undo(undo: Any) -> str:
    if isinstance(undo, Mapping):
        return str(undo.get("op", "-"))
    return ", ".join(map(_undo, undo)) if isinstance(undo, list) else "-" if undo is None else str(undo)


def down(client: Client, args: Namespace) -> Any:
    tunnel = resolve(client, args.name)
    try:
        return client.call("tunnel.destroy", {"id": tunnel["id"]})
    except HelperError as error:
        if error.code == -32002:  # it went by itself since it was listed
            return {"id": tunnel["id"]}
        raise


def routes_list(client: Client, args: Namespace) -> Any:
    """All pages as one result, or one page where `--limit` or `--cursor` asks for it."""
    params: dict[str, Any] = {}
    if args.name is not None:
        params["tunnel"] = resolve(client, args.name)["id"]
    if args.family is not None:
        params["family"] = args.family
    if args.limit is not None or args.cursor is not None:
        given = {"limit": args.limit, "cursor": args.cursor}
        return client.call("route.list", params | {k: v for k, v in given.items() if v is not None})
    page = client.call("route.list", params | {"limit": PAGE})
    routes = list(page["routes"])
    while page["cursor"] is not None:
        page = client.call("route.list", params | {"limit": PAGE, "cursor": page["cursor"]})
        routes += page["routes"]
    return {"routes": routes, "cursor": None}


def routes_table(result: Any) -> Iterator[str]:
    if not result["routes"]:
        yield "no routes"
        return
    rows = [
        (r["destination"], r["gateway"], r["interface"], r["metric"], _made_by(r["owner"]))
        for r in result["routes"]
    ]
    yield shown.table(("DESTINATION", "GATEWAY", "DEVICE", "METRIC", "MADE BY"), rows)
    if result["cursor"] is not None:
        yield f"there are more: --cursor {shown.plain(result['cursor'])}"


def _made_by(owner_: Any) -> str:
    if isinstance(owner_, Mapping):
        return str(
            owner_.get("name") or owner_.get("tunnel") or owner_.get("id") or owner_.get("user") or "-"
        )
    return "-" if owner_ is None else str(owner_)


def routes_add(client: Client, args: Namespace) -> Any:
    return client.call("tunnel.routes", {"id": resolve(client, args.name)["id"], "add": args.networks})


def routes_del(client: Client, args: Namespace) -> Any:
    return client.call("tunnel.routes", {"id": resolve(client, args.name)["id"], "remove": args.networks})


def routes_changed(result: Any) -> Iterator[str]:
    added, removed, total = (shown.plain(result[k]) for k in ("added", "removed", "total"))
    yield f"{added} added, {removed} removed, {total} in all"


def lookup(client: Client, args: Namespace) -> Any:
    return client.call("route.lookup", {"destination": args.address})


def lookup_table(result: Any) -> Iterator[str]:
    yield shown.pairs(
        [
            ("destination", result["destination"]),
            ("device", result["interface"]),
            ("gateway", result["gateway"]),
            ("source", result["source"]),
            ("tunnel", result["tunnel"]),
            ("why", result["reason"]),
        ]
    )
    if result["steps"]:
        yield ""
        rows = [(s["kind"], s["text"], _made_by(s["made_by"])) for s in result["steps"]]
        yield shown.table(("STEP", "WHAT", "MADE BY"), rows)
