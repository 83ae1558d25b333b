"""django-q2's side of scheduling: a `Schedule` row for each job."""

import django
from asking import serve
from publishing import due_at


def main():
    """Schedule what is asked for."""
    django.setup()
    from django_q.models import Schedule
    from django_q.tasks import schedule

    def one(number, due_ms):
        schedule(
            "publishing.publish",
            number,
            due_ms,
            schedule_type=Schedule.ONCE,
            next_run=due_at(due_ms),
        )

    def many(jobs):
        # It has no such call; this is what a user of the ORM does.
        Schedule.objects.bulk_create(
            Schedule(
                func="publishing.publish",
                args=f"({number},{due_ms})",
                schedule_type=Schedule.ONCE,
                next_run=due_at(due_ms),
            )
            for number, due_ms in jobs
        )

    serve(one, many)


if __name__ == "__main__":
    main()
