"""What the routes need, put together once by the composition root."""

import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from orchestrator.access import Principal
from orchestrator.api.auth import Gate, principal_of
from orchestrator.broker import Broker
from orchestrator.conductor import Conductor
from orchestrator.control import Control
from orchestrator.courier import Courier
from orchestrator.event_pages import EventPages
from orchestrator.feed import Feeds
from orchestrator.instruments import Instruments
from orchestrator.inventory import Inventory
from orchestrator.monitor import Monitor
from orchestrator.scheduler import Scheduler
from orchestrator.settings import Settings
from orchestrator.shelf import Shelf
from orchestrator.store import Store
from orchestrator.upkeep import Upkeep
from orchestrator.vault import Vault


@dataclass(frozen=True, slots=True)
class State:
    """The running orchestrator."""

    settings: Settings
    store: Store
    scheduler: Scheduler
    control: Control
    conductor: Conductor
    inventory: Inventory
    broker: Broker
    gate: Gate
    vault: Vault
    monitor: Monitor
    instruments: Instruments
    feeds: Feeds
    event_pages: EventPages
    upkeep: Upkeep
    courier: Courier
    started_at: float = field(default_factory=time.monotonic)

    def shelf(self, who: Principal) -> Shelf:
        """Trained autoencoders within somebody's reach."""
        return Shelf(self.store, self.settings.home, who.covers)


async def _state(connection: HTTPConnection) -> State:  # async, or it would be sent to a thread
    state: State = connection.app.state.orchestrator
    return state


Orchestrator = Annotated[State, Depends(_state)]


async def _principal(connection: HTTPConnection) -> Principal:
    return principal_of(connection)


Who = Annotated[Principal, Depends(_principal)]
"""For whom the request speaks."""
