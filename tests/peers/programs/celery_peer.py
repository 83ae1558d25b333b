"""Celery on Redis: tasks with an ETA, no result backend."""

import os

from asking import serve
from celery import Celery
from publishing import due_at, publish

app = Celery("celery_peer", broker=os.environ["PEERS_REDIS_URL"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
if "PEERS_VISIBILITY_SECONDS" in os.environ:
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        broker_transport_options={
            "visibility_timeout": int(os.environ["PEERS_VISIBILITY_SECONDS"])
        },
    )


@app.task(name="publish")
def fire(number, due_ms):
    """Publish one record."""
    publish(number, due_ms)


if __name__ == "__main__":
    serve(
        lambda number, due_ms: fire.apply_async((number, due_ms), eta=due_at(due_ms)),
    )
