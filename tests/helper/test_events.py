"""Subscribers hear what concerns them, once, in order, and are told when something is lost."""

from __future__ import annotations

from typing import Any

from coentro.helper.events import KEPT, Events, Subscription


def subscription(heard: list[dict[str, Any]], uid: int | None = None, **types: Any) -> Subscription:
    return Subscription(types.get("types"), lambda owner: owner is None or owner == uid, heard.append)


def told(heard: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in heard]


def test_another_users_events_are_not_heard() -> None:
    events = Events()
    heard: list[dict[str, Any]] = []
    events.subscribe(subscription(heard, 1000))
    events.tell("tunnel.up", {"name": "theirs"}, 1001)
    events.tell("tunnel.up", {"name": "mine"}, 1000)
    events.tell("helper.stopping", {})
    assert [e["data"] for e in heard] == [{"name": "mine"}, {}]
    assert [e["seq"] for e in heard] == [2, 3]


def test_only_the_types_asked_for_are_heard() -> None:
    events = Events()
    heard: list[dict[str, Any]] = []
    events.subscribe(subscription(heard, types=frozenset({"helper.stopping"})))
    events.tell("tunnel.up", {}, None)
    events.tell("helper.stopping", {})
    assert told(heard) == ["helper.stopping"]


def test_who_comes_back_hears_what_it_missed() -> None:
    events = Events()
    for _ in range(5):
        events.tell("tunnel.changed", {})
    missed = list(events.replay(subscription([]), events.run, 3))
    assert [e["seq"] for e in missed] == [4, 5]
    assert list(events.replay(subscription([]), events.run, 5)) == []


def test_too_long_ago_another_run_or_the_future_begin_with_a_loss() -> None:
    events = Events()
    for _ in range(KEPT + 2):
        events.tell("tunnel.changed", {})
    assert told(list(events.replay(subscription([]), events.run, 2)))[0] == "tunnel.changed"
    for run, seq in ((events.run, 1), ("another", 5), (events.run, KEPT + 3)):
        replayed = list(events.replay(subscription([]), run, seq))
        assert told(replayed)[0] == "event.lost"
        assert replayed[0]["data"] == {"count": None}
        assert len(replayed) == KEPT + 1


def test_unsubscribed_is_silence() -> None:
    events = Events()
    heard: list[dict[str, Any]] = []
    mine = subscription(heard)
    events.subscribe(mine)
    events.unsubscribe(mine)
    events.tell("tunnel.up", {})
    assert heard == []
