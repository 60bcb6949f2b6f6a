"""Recovery that is not given up and loses nothing.

Faust's ends for good when a step of it gets no answer in time: it takes that for the service being stopped, and an
error of the broker for its own end. The worker then goes on as a member of its group, with partitions that nobody
serves. Here such a step makes recovery begin once more.

Faust also hands the changelog's records on through a queue, which it empties whenever the flow resumes: those of a copy
that is just catching up would be missing from it for good. Here they go to disk as they are fetched.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiokafka.errors import KafkaError
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, ServiceStopped
from faust.tables.recovery import Recovery as FaustRecovery
from faust.types import TP
from mode import Service

from streams.changelog import Stretch

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class Recovery(FaustRecovery):  # type: ignore[misc]  # untyped there
    """Tries until the broker answers, or partitions are dealt anew."""

    def restore(self, tp: TP, run: Stretch) -> None:
        """Writes a stretch of the changelog to disk; the last one that is missing ends the recovery."""
        if tp in self.active_tps:
            offsets = self.active_offsets
        elif tp in self.standby_tps:
            offsets = self.standby_offsets
        else:
            return  # dealt to another worker by now
        known = offsets[tp]
        if known is not None and run.last <= known:
            return
        try:
            self.app.table.store.restore(run)
        except Exception as error:
            self.add_future(self.app.crash(error))
            raise
        offsets[tp] = run.last
        if self.in_recovery and not self.need_recovery():
            self._set_recovery_ended()
            self.signal_recovery_end.set()

    def standby_lag(self) -> dict[int, int]:
        """Partition → records of the changelog that a copy lacks."""
        ends = {tp: max(self.app.consumer.highwater(tp), self.standby_highwaters[tp] + 1) for tp in self.standby_tps}
        known = {tp: self.standby_offsets[tp] for tp in self.standby_tps}
        return {tp.partition: max(0, end - 1 - (-1 if known[tp] is None else known[tp])) for tp, end in ends.items()}

    def lacking(self) -> dict[int, int]:
        """Partition of this worker → records of the changelog that it lacks before it can be served."""
        left = self.active_remaining() if self.in_recovery else {}
        return {tp.partition: max(0, left.get(tp, 0)) for tp in self.active_tps}

    def _set_recovery_started(self) -> None:
        super()._set_recovery_started()
        self.signal_recovery_end.clear()

    @Service.task  # type: ignore[untyped-decorator]
    async def _slurp_changelogs(self) -> None:
        """Nothing comes through Faust's queue."""

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        await super().on_recovery_completed(generation_id)
        if self.app.consumer_generation_id == generation_id:
            self.app.consumer.open_sources()
            self.app.observer.phases.served()

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

    async def on_start(self) -> None:
        """Faust's without its second of sleep: the tables are all known before the app starts."""
        await self._update_channels()
        await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = Recovery(self.app, tables=self, beacon=self.beacon, loop=self.loop)
        return self._recovery
