import pytest
from django.db import DatabaseError, connection, transaction

from scheduling.domain.actors import SCHEDULER
from scheduling.models import AuditEntry
from scheduling.services.audit import ACTIONS, entry, record
from tests.support.histories import make_job


@pytest.fixture
def one_entry(now):
    """Return an entry that stands."""
    job = make_job(now=now)
    return AuditEntry.objects.get(job_id=job.job_id)


def run(statement):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.django_db
class TestAuditIsAppendOnly:
    def test_an_entry_refuses_to_be_saved_again_or_deleted(self, one_entry):
        one_entry.reason = "another"

        with pytest.raises(TypeError):
            one_entry.save()
        with pytest.raises(TypeError):
            one_entry.delete()

    @pytest.mark.parametrize(
        "change",
        [
            lambda entries: entries.update(reason="another"),
            lambda entries: entries.delete(),
            lambda entries: entries.bulk_update(entries, ["reason"]),
            lambda entries: entries._raw_delete("default"),
        ],
        ids=["update", "delete", "bulk update", "raw delete"],
    )
    def test_the_database_refuses_a_queryset(self, one_entry, change):
        before = AuditEntry.objects.values().get()

        with (
            pytest.raises(DatabaseError, match="the audit is append-only"),
            transaction.atomic(),
        ):
            change(AuditEntry.objects.all())

        assert AuditEntry.objects.values().get() == before

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE scheduling_auditentry SET actor = 'nobody'",
            "UPDATE scheduling_auditentry SET actor = actor",
            "DELETE FROM scheduling_auditentry",
        ],
    )
    def test_the_database_refuses_plain_sql(self, one_entry, statement):
        before = AuditEntry.objects.values().get()

        with pytest.raises(DatabaseError, match="the audit is append-only"):
            run(statement)

        assert AuditEntry.objects.values().get() == before


@pytest.mark.django_db
class TestRecord:
    def test_refuses_an_action_that_is_not_registered(self, now):
        job = make_job(now=now)

        with pytest.raises(ValueError, match=r"transition\.teleported"):
            record("transition.teleported", job, actor=SCHEDULER, now=now, old=None)

        assert AuditEntry.objects.count() == 1

    @pytest.mark.parametrize("action", sorted(ACTIONS))
    def test_every_registered_action_fits_its_column(self, now, action):
        job = make_job(now=now)

        record(action, job, actor=SCHEDULER, now=now, old=job.current_status)

        stored = AuditEntry.objects.order_by("id").last()
        assert stored.action == action
        assert (stored.old_status, stored.new_status) == ("scheduled", "scheduled")

    def test_has_every_action_of_the_contract(self):
        named = "scheduled updated claimed attempt_failed completed failed cancelled"
        named += " expired run_now retried overtaken archived"

        assert {f"transition.{name}" for name in named.split()} <= ACTIONS

    def test_goes_with_the_change_when_that_is_rolled_back(self, now):
        job = make_job(now=now)

        with transaction.atomic():
            record("transition.cancelled", job, actor=SCHEDULER, now=now, old=None)
            transaction.set_rollback(True)

        assert AuditEntry.objects.count() == 1

    def test_names_job_actor_and_request(self, now, operator):
        job = make_job(now=now)

        one = entry("transition.expired", job, actor=operator, now=now, old=None)

        assert (one.job_id, one.project_id, one.phase_id, one.state) == (
            job.job_id,
            job.project_id,
            job.phase_id,
            job.state,
        )
        assert (one.actor, one.role, one.request_id) == ("user:olivia", "operator", "")
        assert one.pk is None
