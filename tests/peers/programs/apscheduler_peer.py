"""APScheduler 3 with its jobs in PostgreSQL.

One process schedules and fires: sharing a job store between processes is documented as
unsupported.
"""

import os

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from asking import serve
from publishing import due_at


def main():
    """Fire what stands in the store, and schedule what is asked for."""
    url = os.environ["PEERS_DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:")
    scheduler = BackgroundScheduler(
        jobstores={"default": SQLAlchemyJobStore(url=url)},
        # By default a job that is late by more than a second is dropped.
        job_defaults={"misfire_grace_time": None},
        timezone="UTC",
    )
    scheduler.start()

    def one(number, due_ms):
        scheduler.add_job(
            "publishing:publish",
            "date",
            run_date=due_at(due_ms),
            args=(number, due_ms),
            id=str(number),
        )

    serve(one)


if __name__ == "__main__":
    main()
