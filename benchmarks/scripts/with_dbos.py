import asyncio
import sys

from dbos import DBOS

DBOS(config={"name": "benchmark", "system_database_url": f"sqlite:///{sys.argv[1]}/dbos.db", "run_admin_server": False})


@DBOS.step()
async def increment(x):
    return x + 1


@DBOS.workflow()
async def work(x):
    return await increment(x)


DBOS.launch()
assert asyncio.run(work(1)) == 2
DBOS.destroy()
