"""A first token is handed over before the runtime goes on."""

from __future__ import annotations

import asyncio
import threading

from edgeq.runtime.vlm.stream import Stream, Token

WAIT_S = 60.0
"""Longer than any test may take: who waits for so long has failed."""


def stream() -> Stream:
    return Stream("r1", lambda _: None)


def test_it_waits_until_an_event_loop_has_taken_what_there_is() -> None:
    given, order = stream(), list[str]()

    def runtime() -> None:
        given.put(Token("a"))
        given.wait_taken(WAIT_S)
        order.append("next step")

    async def read() -> None:
        events = aiter(given)
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)  # it waits now
        thread = threading.Thread(target=runtime)
        thread.start()
        assert await reading == Token("a")
        await asyncio.to_thread(thread.join, WAIT_S)

    asyncio.run(read())
    assert order == ["next step"]


def test_a_reader_that_is_busy_is_not_waited_for() -> None:
    given = stream()
    given.put(Token("a"))

    async def read() -> None:
        async for _ in given:
            given.put(Token("b"))
            await asyncio.to_thread(given.wait_taken, 0.001)
            return

    asyncio.run(read())
    assert next(iter(given)) == Token("b"), "it is still there"


def test_nobody_is_waited_for_who_does_not_read_in_an_event_loop() -> None:
    given = stream()
    given.put(Token("a"))
    waiting = threading.Thread(target=given.wait_taken, args=(WAIT_S,), daemon=True)
    waiting.start()
    waiting.join(WAIT_S / 2)
    assert not waiting.is_alive()
