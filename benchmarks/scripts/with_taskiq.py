import asyncio
import sys

from taskiq import InMemoryBroker

in_place = sys.argv[2] == "in place"
broker = InMemoryBroker(await_inplace=in_place)


@broker.task
async def increment(x: int) -> int:
    return x + 1


async def main():
    await broker.startup()
    sent = await increment.kiq(1)
    result = await sent.wait_result(check_interval=0.001 if in_place else 0.2)
    assert result.return_value == 2
    await broker.shutdown()


asyncio.run(main())
