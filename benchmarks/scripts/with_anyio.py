import sys

import anyio


async def increment(x):
    return x + 1


async def work(x):
    async with anyio.create_task_group() as group:
        group.start_soon(increment, x)


loop = sys.argv[2]
if loop == "trio":
    anyio.run(work, 1, backend="trio")
else:
    anyio.run(work, 1, backend_options={"use_uvloop": loop == "uvloop"})
