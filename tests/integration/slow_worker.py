"""`efficientrec worker` in which recovery's last step takes its time: `python -m tests.integration.slow_worker`."""

from __future__ import annotations

import asyncio
import os

from streams import logs
from streams.app import run
from streams.settings import Settings
from streams.transport import Consumer, Transport


class SlowConsumer(Consumer):
    """Takes longer than a fetch waits, so that one begins and ends within the step."""

    async def perform_seek(self) -> None:
        await super().perform_seek()
        await asyncio.sleep(1.1)


def main() -> None:
    Transport.Consumer = SlowConsumer
    settings = Settings.load(os.environ)
    logs.configure(settings.log_level)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
