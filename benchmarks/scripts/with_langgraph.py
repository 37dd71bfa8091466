import asyncio
import sys

from langgraph.func import entrypoint, task

if sys.argv[2] == "sqlite":
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver


@task
async def increment(x):
    return x + 1


async def ask(saver):
    @entrypoint(checkpointer=saver)
    async def work(x):
        return await increment(x)

    assert await work.ainvoke(1, {"configurable": {"thread_id": "1"}}) == 2


async def main():
    folder, variant = sys.argv[1:]
    if variant == "none":
        await ask(None)
        return
    async with AsyncSqliteSaver.from_conn_string(f"{folder}/checkpoints.db") as saver:
        await ask(saver)


asyncio.run(main())
