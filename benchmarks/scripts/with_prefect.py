import asyncio

from prefect import flow, task


@task
async def increment(x):
    return x + 1


@flow
async def work(x):
    return await increment(x)


assert asyncio.run(work(1)) == 2
