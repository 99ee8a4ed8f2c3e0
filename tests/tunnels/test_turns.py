"""Changes run in order of arrival, whatever order their tasks are started in."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from coentro.tunnels.turns import Turn, Turns


async def test_turns_come_in_the_order_in_which_they_were_taken() -> None:
    turns = Turns()
    places = [turns.take() for _ in range(20)]
    order: list[int] = []

    async def change(number: int, turn: Turn) -> None:
        async with turn:
            await trio.lowlevel.checkpoint()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in reversed(range(20)):
            nursery.start_soon(change, number, places[number])
    assert order == list(range(20))


async def test_a_turn_that_is_given_up_lets_the_next_one_on() -> None:
    turns = Turns()
    first, second, third = turns.take(), turns.take(), turns.take()
    second.drop()
    first.drop()
    async with third:
        pass
    assert turns.take().on.is_set()


async def test_cancelled_while_waiting_its_place_is_free() -> None:
    turns = Turns()
    first, second, third = turns.take(), turns.take(), turns.take()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            async with second:
                raise AssertionError("it is not its turn")

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    first.drop()
    assert third.on.is_set()


async def test_a_change_that_fails_passes_the_turn_on() -> None:
    turns = Turns()
    first, second = turns.take(), turns.take()
    try:
        async with first:
            raise ValueError
    except ValueError:
        pass
    assert second.on.is_set()
