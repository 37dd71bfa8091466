import asyncio


async def increment(x):
    return x + 1


async def work(x):
    async with asyncio.TaskGroup() as group:
        member = group.create_task(increment(x))
    return member.result()


assert asyncio.run(work(1)) == 2
