"""procrastinate on PostgreSQL: `setup`, `worker` or, without a word, the scheduler."""

import asyncio
import os
import sys
from itertools import groupby

import procrastinate
from asking import serve
from publishing import due_at, publish_async


def _app(connector):
    app = procrastinate.App(connector=connector(conninfo=os.environ["PEERS_DATABASE_URL"]))

    @app.task(name="publish")
    async def fire(number, due_ms):
        await publish_async(number, due_ms)

    return app, fire


def _set_up():
    app, _ = _app(procrastinate.SyncPsycopgConnector)
    with app.open():
        app.schema_manager.apply_schema()


async def _work():
    app, _ = _app(procrastinate.PsycopgConnector)
    options = {}
    if "PEERS_POLL_SECONDS" in os.environ:
        options["fetch_job_polling_interval"] = float(os.environ["PEERS_POLL_SECONDS"])
    if "PEERS_CONCURRENCY" in os.environ:
        options["concurrency"] = int(os.environ["PEERS_CONCURRENCY"])
    async with app.open_async():
        await app.run_worker_async(**options)


def _schedule():
    app, fire = _app(procrastinate.SyncPsycopgConnector)

    def one(number, due_ms):
        fire.configure(schedule_at=due_at(due_ms)).defer(number=number, due_ms=due_ms)

    def many(jobs):
        # One instant for each call of `batch_defer`, as it is documented.
        for due_ms, some in groupby(jobs, key=lambda job: job[1]):
            fire.configure(schedule_at=due_at(due_ms)).batch_defer(
                *({"number": number, "due_ms": due_ms} for number, _ in some)
            )

    with app.open():
        serve(one, many)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["setup"]:
            _set_up()
        case ["worker"]:
            asyncio.run(_work())
        case _:
            _schedule()
