"""Audit entries in prose: every action has its words, and odd entries don't break it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.models import AuditEntry
from scheduling.queries.audit_prose import TELLINGS, name_actor, tell_audit_entry
from scheduling.services.audit import ACTIONS

JOB = {
    "job_id": "job-1-2-3",
    "project_id": "2",
    "phase_id": "3",
    "state": "END",
    "actor": "user:operator-1",
}
AT = ["2026-11-23T12:00:00.000Z", "2026-11-23T13:00:00.250Z"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEYS = ("endTime", "counts", "latenessMs", "attempt", "offset", "error", "dryRun")


class TestTellAuditEntry:
    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            (
                {"action": "transition.cancelled", "reason": "customer asked"},
                "operator-1 cancelled END of Review (job-1-2-3): customer asked",
            ),
            (
                {
                    "action": "transition.scheduled",
                    "changes": {"endTime": AT[0], "replaces": "job-0-2-3"},
                },
                "operator-1 scheduled END of Review (job-1-2-3) for Mon 23 Nov 12:00:00 "
                "UTC in place of job-0-2-3",
            ),
            (
                {"action": "transition.updated", "changes": {"endTime": AT}},
                "operator-1 moved END of Review (job-1-2-3) from Mon 23 Nov 12:00:00 UTC "
                "to Mon 23 Nov 13:00:00.250 UTC",
            ),
            (
                {
                    "action": "transition.updated",
                    "changes": {"projectStatus": ["ACTIVE", "DRAFT"], "metadata": [{}, 1]},
                },
                "operator-1 changed END of Review (job-1-2-3): projectStatus from ACTIVE "
                "to DRAFT, metadata from … to 1",
            ),
            (
                {
                    "action": "transition.completed",
                    "actor": "system:scheduler",
                    "changes": {"partition": 2, "offset": 4711, "latenessMs": 5.2},
                },
                "The scheduler published END of Review (job-1-2-3), 5 ms late, to "
                "partition 2 offset 4711",
            ),
            (
                {"action": "transition.completed", "changes": {"latenessMs": -61_000}},
                "operator-1 published END of Review (job-1-2-3), 61.0 s early",
            ),
            (
                {
                    "action": "transition.attempt_failed",
                    "actor": "system:scheduler",
                    "changes": {
                        "attempt": 1,
                        "error": "too large",
                        "nextAttemptAt": AT[0],
                    },
                },
                "The scheduler failed to publish END of Review (job-1-2-3) (attempt 1), "
                "next try Mon 23 Nov 12:00:00 UTC: too large",
            ),
            (
                {"action": "transition.retried", "changes": {"replacedBy": "job-9"}},
                "operator-1 retried END of Review (job-1-2-3) as job-9",
            ),
        ],
    )
    def test_tells_who_did_what_to_which_job_and_why(self, fields, line):
        entry = AuditEntry(**JOB | fields)

        assert tell_audit_entry(entry, phase_name="Review") == line

    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            (
                {
                    "action": "access.refused",
                    "actor": "user:eve",
                    "changes": {"method": "POST", "path": "/admin/"},
                },
                "eve was refused POST /admin/",
            ),
            (
                {
                    "action": "access.login_failed",
                    "actor": "user:eve",
                    "changes": {"door": "admin", "address": "10.0.0.1"},
                    "reason": "wrong name",
                },
                "eve failed to log in at the admin from 10.0.0.1: wrong name",
            ),
            (
                {
                    "action": "command.refused",
                    "actor": "kafka:admin",
                    "changes": {"command": "recover"},
                },
                "admin by Kafka commanded recover, which was refused",
            ),
            (
                {
                    "action": "dead_letter.discarded",
                    "actor": "cli:sara",
                    "changes": {"record": "t[0]@5", "code": "invalid_request"},
                },
                "sara on the command line discarded the dead letter t[0]@5 "
                "(invalid_request)",
            ),
            (
                {
                    "action": "recovery.finished",
                    "actor": "system:recovery",
                    "project_id": "7",
                    "changes": {
                        "dryRun": True,
                        "status": "COMPLETED",
                        "counts": {"rescuedJobs": 2},
                    },
                },
                "Recovery finished a dry run of recovery for project 7, COMPLETED "
                "(rescuedJobs 2)",
            ),
            (
                {
                    "action": "oven.cleaned",
                    "actor": "user:uma",
                    "changes": {"heat": [1, 2], "by": "hand"},
                },
                "uma did oven.cleaned (heat from 1 to 2, by hand)",
            ),
        ],
    )
    def test_tells_what_has_no_job(self, fields, line):
        assert tell_audit_entry(AuditEntry(**fields)) == line

    def test_names_the_phase_by_its_id_where_nobody_knows_its_name(self):
        entry = AuditEntry(**JOB, action="transition.run_now")

        assert tell_audit_entry(entry) == "operator-1 ran END of phase 3 (job-1-2-3) now"

    @given(
        action=st.sampled_from(sorted(ACTIONS)) | st.text(),
        changes=json_values | st.dictionaries(st.sampled_from(KEYS), json_values),
        texts=st.lists(st.text(max_size=20), min_size=5, max_size=5),
    )
    def test_is_one_printable_line_whatever_the_entry_holds(self, action, changes, texts):
        actor, reason, job_id, phase_id, name = texts
        entry = AuditEntry(
            action=action,
            changes=changes,
            actor=actor,
            reason=reason,
            job_id=job_id,
            phase_id=phase_id,
        )

        line = tell_audit_entry(entry, phase_name=name)

        assert line
        assert line.isprintable()

    def test_has_words_for_every_action_that_may_be_written(self):
        assert TELLINGS.keys() == ACTIONS


class TestNameActor:
    @pytest.mark.parametrize(
        ("actor", "name"),
        [
            ("user:olivia", "olivia"),
            ("user:https://issuer|sub:1", "https://issuer|sub:1"),
            ("kafka:", "somebody by Kafka"),
            ("system:other", "system:other"),
            ("", "somebody"),
        ],
    )
    def test_is_as_people_call_them(self, actor, name):
        assert name_actor(actor) == name
