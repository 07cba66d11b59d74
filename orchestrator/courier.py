"""Tells webhooks what happens: at least once, in order for each, through restarts and failures of either side.

The events table is the outbox: each webhook has a cursor in it, which moves on only when its receiver has said 2xx. A
receiver that fails is tried again with growing pauses, and after many failures in a row its webhook is disabled, where
everybody can see it; enabled again, it goes on where it stopped.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import random
import secrets
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from orchestrator.broker import Broker
from orchestrator.errors import InvalidInput, NotFound, OrchestratorError
from orchestrator.event_names import NAMES, kinds, name_of
from orchestrator.outbound import Allowed, Outbound, Undeliverable, target
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.store.webhooks import Told, Try, Webhook
from worker_image import __version__

logger = logging.getLogger(__name__)

SECRET_PREFIX: Final = "whsec_"
PING: Final = "ping"
_SECRET_BYTES: Final = 32
_PAGE: Final = 50
_RECHECK_S: Final = 5.0
_LULL_S: Final = 0.1
"""Least time between two looks: a burst of news is looked at once."""
_LONGEST_PAUSE_S: Final = 3600.0
_AT_ONCE: Final = 16
"""Most requests under way together, whatever the number of webhooks."""
_GONE: Final = 410

TELLABLE: Final = frozenset(
    {
        "job_created", "job_updated", "job_archived", "job_rebuilt", "status_changed", "attempt_started",
        "attempt_ended", "command_requested", "checkpoint_deleted",
        "started", "checkpoint_saved", "checkpoint_removed", "artifact_saved", "command_applied", "command_rejected",
        "message", "finished",
    }
)  # fmt: skip
"""Types of stored events that a webhook may ask for: all but the flood of figures."""
DEFAULT_EVENTS: Final = ("job_created", "status_changed")


class Secrets:
    """The secrets that sign, each in a file that its owner alone can read: in no database and no copy of one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, hook_id: UUID) -> str:
        """Raises: OSError."""
        secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(self._path(hook_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        return secret

    def read(self, hook_id: UUID) -> str | None:
        try:
            return self._path(hook_id).read_text()
        except OSError:
            return None

    def delete(self, hook_id: UUID) -> None:
        self._path(hook_id).unlink(missing_ok=True)

    def _path(self, hook_id: UUID) -> Path:
        return self._folder / f"{hook_id}.secret"


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``, as Standard Webhooks (standardwebhooks.com) has it."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def body_of(told: Told) -> bytes:
    """What is sent of an event. The same bytes at every try."""
    content: dict[str, Any] = {
        "id": told.id,
        "type": told.type,
        "name": name_of(told.type, told.data),
        "ts": told.ts.isoformat(),
        "job_id": str(told.job_id),
        "attempt": told.attempt,
        "seq": told.seq,
        "data": told.data,
        "job": {"name": told.job_name, "type": told.job_type, "owner": told.job_owner, "tags": list(told.job_tags)},
    }
    return json.dumps(content).encode()


def check_events(events: tuple[str, ...]) -> tuple[str, ...]:
    """Raises: InvalidInput: one of them is not told to webhooks."""
    for kind, name in zip(kinds(events), events, strict=True):
        if kind.type not in TELLABLE:
            public = [name for name, kind in NAMES.items() if kind.type in TELLABLE]
            raise InvalidInput(
                f"events: {name!r} is none that a webhook is told of",
                field="events",
                suggestion=f"one of: {', '.join([*public, *sorted(TELLABLE)])}",
            )
    return events


class Courier:
    """One task for each webhook, so that a slow receiver keeps no other one waiting."""

    def __init__(self, *, store: Store, broker: Broker, settings: Settings, outbound: Outbound | None = None) -> None:
        self._store, self._broker, self._settings = store, broker, settings
        self._secrets = Secrets(settings.webhook_secrets)
        self._outbound = outbound or Outbound(
            Allowed.parse(settings.webhook_allow), timeout_s=settings.webhook_timeout_s
        )
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._sending = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Look after every webhook, for ever. Cancelled in the middle of a request, it is sent again the next time."""
        try:
            while True:
                self._changed.clear()
                try:
                    await self._look_after_all()
                except (OrchestratorError, sqlite3.Error) as error:
                    logger.error("webhooks cannot be looked at: %s", error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(60):
                        await self._changed.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await self._outbound.close()

    # --- what the API asks for

    async def add(self, hook: Webhook) -> tuple[Webhook, str]:
        """Keep a new webhook; the secret with it is told this once.

        Raises:
            InvalidInput: it may not be sent there, or one of the events is none.
        """
        check_events(hook.events)
        with suppress(Undeliverable):
            # A name that stands for nothing yet may do so later; one that stands for the wrong thing is refused now.
            await self._outbound.addresses(target(hook.url))
        secret = await asyncio.to_thread(self._secrets.make, hook.id)
        added = await self._store.webhooks.add(hook)
        self._changed.set()
        return added, secret

    async def delete(self, hook_id: UUID) -> None:
        """Raises: NotFound."""
        await self._store.webhooks.delete(hook_id)
        await asyncio.to_thread(self._secrets.delete, hook_id)
        if (task := self._tasks.pop(hook_id, None)) is not None:
            task.cancel()

    async def enable(self, hook_id: UUID, *, skip: bool) -> Webhook:
        """Send again, from where it stopped or, with ``skip``, from now. Raises: NotFound."""
        hook = await self._store.webhooks.enable(hook_id, skip=skip)
        if (task := self._tasks.pop(hook_id, None)) is not None:
            task.cancel()
        self._changed.set()
        return hook

    async def ping(self, hook_id: UUID) -> Try:
        """Send a test now, once, and say what came of it. Raises: NotFound."""
        hook = await self._store.webhooks.one(hook_id)
        now = datetime.now(UTC)
        body = json.dumps({"type": PING, "ts": now.isoformat(), "webhook": str(hook.id)}).encode()
        tried, _ = await self._send(hook, f"ping-{uuid4()}", PING, body, event_id=None, number=1)
        await self._store.webhooks.record(hook.id, tried, next_try_at=None, disabled=None)
        return tried

    # --- delivering

    async def _look_after_all(self) -> None:
        hooks = await self._store.webhooks.all()
        for hook in hooks:
            running = self._tasks.get(hook.id)
            if hook.disabled is None and (running is None or running.done()):
                self._tasks[hook.id] = asyncio.create_task(self._look_after(hook.id), name=f"webhook {hook.id}")

    async def _look_after(self, hook_id: UUID) -> None:
        """Tell one webhook everything it is to be told, until it is disabled or deleted."""
        seen = 0
        while True:
            news = self._broker.listen()
            try:
                hook = await self._store.webhooks.one(hook_id)
                if hook.disabled is not None:
                    return
                pause_s = (hook.next_try_at - datetime.now(UTC)).total_seconds()
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                seen, more = await self._tell_page(hook, max(seen, hook.cursor))
            except NotFound:
                return
            except (OrchestratorError, sqlite3.Error, OSError) as error:
                logger.error("webhook %s: %s", hook_id, error)
                await asyncio.sleep(_RECHECK_S)
                continue
            if not more:
                await asyncio.sleep(_LULL_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RECHECK_S):
                        await news.wait()

    async def _tell_page(self, hook: Webhook, after: int) -> tuple[int, bool]:
        """Tell some of what waits; up to where nothing is left, and whether to look again at once."""
        found, upto = await self._store.webhooks.waiting(hook, kinds(hook.events), after=after, limit=_PAGE)
        number = hook.tries + 1
        for told in found:
            if not await self._tell(hook, told, number):
                return after, True
            number = 1
        return upto, len(found) == _PAGE

    async def _tell(self, hook: Webhook, told: Told, number: int) -> bool:
        """Try once to tell an event; whether it was taken."""
        message_id = f"{told.id}-{int(told.ts.timestamp() * 1000)}"
        tried, retry_after_s = await self._send(
            hook, message_id, told.type, body_of(told), event_id=told.id, number=number
        )
        if tried.error is None:
            await self._store.webhooks.record(hook.id, tried, next_try_at=None, disabled=None)
            return True
        disabled = None
        if tried.status_code == _GONE:
            disabled = "the receiver says that it is gone for good (410)"
        elif number >= self._settings.webhook_max_tries:
            disabled = f"{number} tries in a row failed; the last: {tried.error}"
        pause_s = max(self._pause_s(number), min(retry_after_s or 0.0, _LONGEST_PAUSE_S))
        next_try_at = datetime.now(UTC) + timedelta(seconds=pause_s)
        await self._store.webhooks.record(hook.id, tried, next_try_at=next_try_at, disabled=disabled)
        if disabled is not None:
            logger.error("webhook %s is disabled: %s", hook.id, disabled)
        return False

    def _pause_s(self, failures: int) -> float:
        """Exponential, half of it random so that many do not come back at once."""
        # Bounded before it is raised to a power that no float holds.
        longest_s = min(self._settings.webhook_backoff_s * 2.0 ** min(failures - 1, 32), _LONGEST_PAUSE_S)
        return longest_s * random.uniform(0.5, 1)

    async def _send(
        self, hook: Webhook, message_id: str, type: str, body: bytes, *, event_id: int | None, number: int
    ) -> tuple[Try, float | None]:
        at = datetime.now(UTC)
        status_code: int | None = None
        error: str | None = None
        retry_after_s: float | None = None
        secret = await asyncio.to_thread(self._secrets.read, hook.id)
        if secret is None:
            error = "its secret is gone (it is in no backup): delete it and make a new one"
        else:
            timestamp = int(at.timestamp())
            headers = {
                "Content-Type": "application/json",
                "User-Agent": f"saeforge/{__version__}",
                "webhook-id": message_id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(secret, message_id, timestamp, body),
            }
            try:
                async with self._sending:
                    answer = await self._outbound.post(hook.url, body, headers)
                status_code, retry_after_s = answer.status_code, answer.retry_after_s
                error = None if 200 <= status_code < 300 else _meaning(status_code)
            except (InvalidInput, Undeliverable) as refused:
                error = refused.message
        duration_s = (datetime.now(UTC) - at).total_seconds()
        return Try(event_id, type, number, at, duration_s, status_code, error), retry_after_s


def _meaning(status_code: int) -> str:
    if 300 <= status_code < 400:
        return f"HTTP {status_code}: redirects are not followed; set the address it leads to"
    return f"HTTP {status_code}"
