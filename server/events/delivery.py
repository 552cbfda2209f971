"""Bringing dead letters to their targets: a file, a URL, another function. At least once to the first two, exactly once to a function."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Final

import httpx
import orjson

from sandbox.log import pairs
from sandbox.settings import Settings
from server.api.threads import Threads
from server.events.deadletters import DeadLetter, DeadLetters, message

AT_ONCE: Final = 50
URL_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class Delivery:
    """`run_once` brings what is pending; the dispatcher calls it. `close` at the end."""

    def __init__(self, settings: Settings, letters: DeadLetters, threads: Threads) -> None:
        self._folder = settings.dead_letters_dir
        self._letters, self._threads = letters, threads
        self._http: httpx.AsyncClient | None = None

    async def run_once(self) -> int:
        """How many were there. Raises SQLAlchemyError."""
        found = await self._threads.run(self._letters.take_pending, AT_ONCE, now=time.time())
        if not found:
            return 0
        went = await asyncio.gather(*(self._deliver(letter) for letter in found))
        # hand_to_function has marked its own
        if good := [letter for letter, well in zip(found, went, strict=True) if well and letter.target_type != "function"]:
            await self._threads.run(self._letters.delivered, good)
        if bad := [letter for letter, well in zip(found, went, strict=True) if not well]:
            await self._threads.run(self._letters.not_delivered, bad, now=time.time())
        return len(found)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def _deliver(self, letter: DeadLetter) -> bool:
        try:
            if letter.target_type == "function":
                await self._threads.run(self._letters.hand_to_function, letter)
            elif letter.target_type == "url":
                await self._post(letter)
            else:
                await self._threads.run(self._append, letter)
        except (OSError, httpx.HTTPError) as error:
            _log.warning(
                pairs("a dead letter was not delivered", request_id=letter.request_id, target=letter.target_type, error=str(error))
            )
            return False
        return True

    async def _post(self, letter: DeadLetter) -> None:
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=URL_SECONDS, trust_env=False, follow_redirects=False)
        headers = {"Content-Type": "application/json", "X-Scf-Request-Id": letter.request_id}
        response = await self._http.post(letter.target, content=_document(letter), headers=headers)
        response.raise_for_status()

    def _append(self, letter: DeadLetter) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._folder / f"{letter.target}.jsonl", flags, 0o600)
        try:
            # One write: lines of several dispatchers don't mix, see write(2) on O_APPEND.
            _write_whole(descriptor, _document(letter) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _document(letter: DeadLetter) -> bytes:
    return orjson.dumps(message(letter))


def _write_whole(descriptor: int, data: bytes) -> None:
    if (written := os.write(descriptor, data)) != len(data):
        raise OSError(f"{written} of {len(data)} bytes written")
