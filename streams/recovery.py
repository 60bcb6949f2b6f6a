"""Recovery that is not given up: Faust's, which ends for good when a step of it gets no answer in time.

It takes a step that timed out for the service being stopped, and an error of the broker for its own end. The worker
then goes on as a member of its group, with partitions that nobody serves. Here such a step makes recovery begin once
more.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiokafka.errors import KafkaError
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, ServiceStopped
from faust.tables.recovery import Recovery as FaustRecovery

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class Recovery(FaustRecovery):  # type: ignore[misc]  # untyped there
    """Tries until the broker answers, or partitions are dealt anew."""

    async def _wait(self, coro: Any, timeout: Any = None) -> None:
        try:
            found = await self.wait_first(coro, self.signal_recovery_start, timeout=timeout)
        except (RebalanceAgain, ServiceStopped):
            raise  # from a step within this one
        except KafkaError as error:
            await self._again(repr(error))
        except Exception as error:
            await self.app.crash(error)
            raise
        if self.should_stop or self.crashed:
            raise ServiceStopped
        if self.signal_recovery_start in found.done:
            raise RebalanceAgain
        if found.stopped:
            await self._again(f"no answer within {timeout:g} s")

    async def _again(self, reason: str) -> None:
        log.warning("taking over partitions: %s; beginning once more", reason)
        await asyncio.sleep(RETRY_SECONDS)
        self.signal_recovery_start.set()
        raise RebalanceAgain


class Tables(TableManager):  # type: ignore[misc]  # untyped there
    """Faust's manager of tables, with this recovery."""

    _recovery: Recovery | None = None

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = Recovery(self.app, tables=self, beacon=self.beacon, loop=self.loop)
        return self._recovery
