"""The way out: who reads an answer slowly, or not at all, holds up nobody else.

An answer holds a place while it is made, and none while its client takes it. What waits
to be taken is in memory, so that it is bounded too.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("autopilot.api")

# Who takes nothing of an answer for so long is cut off.
SEND_SECONDS = 30.0
# Bytes of answers that are made and not taken yet; beyond that the oldest is cut off.
MOST_UNTAKEN = 128 * 1024 * 1024


class ClientTooSlowError(Exception):
    """The client takes nothing of its answer; the application ends with this."""


class Untaken:
    """The answers of a process that their clients have still to take, oldest first."""

    def __init__(self) -> None:
        self._sizes: dict[Answer, int] = {}

    def add(self, answer: "Answer", size: int) -> None:
        """Count an answer; cut off older ones where all together are too large."""
        self._sizes[answer] = size
        while len(self._sizes) > 1 and sum(self._sizes.values()) > MOST_UNTAKEN:
            oldest = next(iter(self._sizes))
            self.remove(oldest)
            oldest.cut_off()

    def remove(self, answer: "Answer") -> None:
        """Count it no more."""
        self._sizes.pop(answer, None)


class Answer:
    """One request's answer on its way, in a place that its maker has taken."""

    def __init__(self, send: Send, *, places: asyncio.Semaphore, untaken: Untaken) -> None:
        self.has_begun = asyncio.Event()
        self._send = send
        self._places = places
        self._untaken = untaken
        self._has_place = True
        self._is_given_up = False
        self._maker: asyncio.Task[Any] | None = None

    async def make(self, application: Application, scope: Scope, receive: Receive) -> None:
        """Let the application make it, and give the place back at the end."""
        self._maker = asyncio.current_task()
        try:
            await application(scope, receive, self._pass_on)
        finally:
            # Neither holds the other: what was made is freed at once.
            self._maker = None
            self._untaken.remove(self)
            if self._has_place:
                self._places.release()

    def give_up(self) -> None:
        """Send nothing of it: another answer is given in its stead."""
        self._is_given_up = True

    def cut_off(self) -> None:
        """End it where it is; the client sees that it is not whole."""
        logger.warning("an answer is cut off: clients have too much of them to take")
        if self._maker is not None:
            self._maker.cancel()

    async def _pass_on(self, message: Message) -> None:
        """Send a part of it.

        Raises:
            ClientTooSlowError: The client takes nothing.
        """
        if self._is_given_up:
            return
        if message["type"] == "http.response.start":
            self._untaken.add(self, _length(message))
            self.has_begun.set()
            await self._send(message)
            return
        self._has_place = False
        self._places.release()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._send(message)
        except TimeoutError:
            raise ClientTooSlowError from None
        if message.get("more_body", False):
            await self._places.acquire()
            self._has_place = True


def _length(start: Message) -> int:
    """Return the length that an answer tells; 0 of one that is made while it is sent."""
    lengths = (
        value for name, value in start["headers"] if name.lower() == b"content-length"
    )
    return int(next(lengths, 0))
