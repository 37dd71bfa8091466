import sys

import anyio

from undertow import Engine, flow, task


@task
async def increment(x):
    return x + 1


@flow
async def work(x):
    return await increment(x)


async def main(journal, durability):
    async with Engine(journal, durability=durability):
        assert await work(1) == 2


folder, variant = sys.argv[1:]
loop, kept = variant.split("/")
journal = ":memory:" if kept == "memory" else f"{folder}/journal.db"
durability = "process" if kept == "memory" else kept
if loop == "trio":
    anyio.run(main, journal, durability, backend="trio")
else:
    anyio.run(main, journal, durability, backend_options={"use_uvloop": loop == "uvloop"})
