"""The first signal abandons what can be abandoned; the second ends everything."""

import asyncio
import os
import signal

import pytest

from workers.controller.interruption import Interrupted, Interruption


def test_work_that_ends_first_gives_its_result():
    async def main():
        return await Interruption(grace_s=30).abandon(asyncio.sleep(0, "done"))

    assert asyncio.run(main()) == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_abandons_the_work(number):
    cancelled = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(True)

    async def main():
        interruption = Interruption(grace_s=30)
        with interruption.listen():
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)
            with pytest.raises(Interrupted):
                await interruption.abandon(work())
        assert interruption.signal is number

    asyncio.run(main())
    assert cancelled == [True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_second_signal_cancels_what_cannot_be_abandoned(number):
    async def main():
        interruption = Interruption(grace_s=30)
        with interruption.listen():
            for delay in (0.05, 0.1):
                asyncio.get_running_loop().call_later(delay, os.kill, os.getpid(), number)
            await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_a_scheduler_gives_a_grace_and_a_person_does_not_need_one():
    async def main(number, then_s):
        interruption = Interruption(grace_s=0.2)
        with interruption.listen():
            os.kill(os.getpid(), number)
            while not interruption.requested:
                await asyncio.sleep(0.01)
            await asyncio.sleep(then_s)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main(number, 60))
    asyncio.run(main(signal.SIGINT, 0.5))


def test_the_first_signal_decides_and_the_handlers_are_given_back():
    def mine(number, frame):
        raise AssertionError("not while the loop listens")

    async def main(interruption):
        with interruption.listen():
            for delay, number in ((0.05, signal.SIGTERM), (0.1, signal.SIGINT)):
                asyncio.get_running_loop().call_later(delay, os.kill, os.getpid(), number)
            await asyncio.sleep(60)

    interruption = Interruption(grace_s=30)
    before = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main(interruption))
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert interruption.signal is signal.SIGTERM
