"""undertow in a web application: one handler awaits a flow, another starts a background run that outlives the request.

pip install fastapi uvicorn
uvicorn --app-dir examples web:app

curl -X POST 'localhost:8000/total' -H 'content-type: application/json' -d '[1, 2, 3]'
curl -X POST 'localhost:8000/reports?month=May'
curl 'localhost:8000/reports/<the id it gave>'
"""

from __future__ import annotations

import anyio
from fastapi import FastAPI, HTTPException

from undertow import Engine, Future, flow, task

engine = Engine("web.db", limits={"prices": 4})
app = FastAPI(title="undertow in a web application", lifespan=engine.lifespan)

# Handles of background runs. What they were and how they ended stays in the journal; the results live as long as this.
reports: dict[str, Future[str]] = {}


@task(retries=2, retry_delay_seconds=0.2, limits=["prices"])
async def price(article: int) -> float:
    """What an article costs: here some other service would be asked, with the application's own client."""
    await anyio.sleep(0.01)
    return article * 1.5


@flow
async def total(articles: list[int]) -> float:
    return sum(await price.map(articles))


@flow
async def monthly_report(month: str) -> str:
    await anyio.sleep(1)
    return f"In {month} we sold articles for {await total([1, 2, 3])}."


@app.post("/total")
async def ask(articles: list[int]) -> float:
    """The flow is awaited in the request, in the application's own loop."""
    return await total(articles)


@app.post("/reports", status_code=202)
async def start(month: str) -> dict[str, str]:
    """The run belongs to the engine: it goes on when the request is over."""
    run = engine.start(monthly_report, month)
    reports[run.run_id] = run
    return {"run": run.run_id}


@app.get("/reports/{run_id}")
async def read(run_id: str) -> dict[str, str | None]:
    run = reports.get(run_id)
    if run is None:
        raise HTTPException(404, f"no report has the id {run_id}")
    state = run.state
    return {"state": state.name, "report": state.result() if state.is_completed() else None}
