import asyncio

from apscheduler import AsyncScheduler


async def increment(x):
    return x + 1


async def main():
    async with AsyncScheduler() as scheduler:
        await scheduler.start_in_background()
        assert await scheduler.run_job(increment, args=(1,)) == 2


asyncio.run(main())
