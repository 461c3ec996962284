"""The first signal abandons what can be abandoned; the second ends everything."""

import asyncio
import os
import signal

import pytest

from workers.controller.interruption import Interrupted, Interruption


def test_work_that_ends_first_gives_its_result():
    async def main():
        return await Interruption().abandon(asyncio.sleep(0, "done"))

    assert asyncio.run(main()) == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_abandons_the_work(number):
    cancelled = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(True)

    async def main():
        interruption = Interruption()
        with interruption.listen():
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)
            with pytest.raises(Interrupted):
                await interruption.abandon(work())
        assert interruption.signal is number

    asyncio.run(main())
    assert cancelled == [True]


def test_a_second_signal_cancels_what_cannot_be_abandoned():
    async def main():
        interruption = Interruption()
        with interruption.listen():
            for delay in (0.05, 0.1):
                asyncio.get_running_loop().call_later(delay, os.kill, os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
