"""Three texts are fetched, two at a time; one line is busy at first. The words are counted as the texts come in."""

import anyio

from undertow import Engine, flow, runtime, task


@task(retries=2, retry_delay_seconds=0.1, timeout_seconds=5, limits=["line"])
async def fetch(number: int) -> str:
    if number == 2 and runtime.task_run.run_count == 1:
        raise ConnectionError("the line was busy")
    return "to be or not to be " * number


@task
def count(text: str) -> int:
    return len(text.split())


@flow
async def words(numbers: list[int]) -> int:
    texts = fetch.map(numbers)  # futures, at once
    return sum(await count.map(texts))  # each count begins when its text is there


async def main() -> None:
    async with Engine("hello.db", limits={"line": 2}):
        print(await words([1, 2, 3]), "words")


if __name__ == "__main__":
    anyio.run(main)  # or anyio.run(main, backend="trio")
