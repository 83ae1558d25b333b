"""What the admin can do, the API and a command can do: same service, same audit."""

import io

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from rest_framework.test import APIClient

from scheduling.api import overrides as api
from scheduling.management.commands import (
    cancel_transition,
    reschedule_transition,
    retry_transition,
    run_transition_now,
)
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services import overrides as services
from scheduling.services.overrides import Override
from scheduling.services.update import update_transition

PAGE = "/admin/scheduling/scheduledtransition/override/"
FORM = "/admin/scheduling/scheduledtransition/schedule/"
API = "/api/v1/transitions/"
STATUS = {
    Override.RESCHEDULE: "scheduled",
    Override.CANCEL: "scheduled",
    Override.RUN_NOW: "scheduled",
    Override.RETRY: "failed",
}
DATA = {
    "phaseTypeName": "Review",
    "state": "END",
    "projectStatus": "ACTIVE",
    "projectId": 4,
}


class Doors:
    """Does an override through each door, as somebody who may."""

    def __init__(self, web, end_time):
        self.web = web
        self.end_time = end_time
        self.rest = APIClient()
        self.rest.force_authenticate(User.objects.get(username="operator-1"))

    def admin(self, override, job):
        fields = {"action": override.value, "_selected_action": job.pk}
        more = {"reason": "why", "confirm": "yes", "end_time": self.end_time}
        more["shown_end_time"] = self.end_time
        assert self.web.post(PAGE, {**fields, **more}, follow=True).status_code == 200

    def api(self, override, job):
        if override is Override.RESCHEDULE:
            body = {"endTime": self.end_time, "reason": "why"}
            answer = self.rest.patch(f"{API}{job.job_id}/", body, format="json")
        else:
            path = f"{API}{job.job_id}/{override.value.replace('_', '-')}/"
            answer = self.rest.post(path, {"reason": "why"}, format="json")
        assert answer.status_code in {200, 202}, answer.content

    def command(self, override, job):
        names = {
            Override.RESCHEDULE: "reschedule_transition",
            Override.CANCEL: "cancel_transition",
            Override.RUN_NOW: "run_transition_now",
            Override.RETRY: "retry_transition",
        }
        more = ["--end-time", self.end_time] if override is Override.RESCHEDULE else []
        arguments = [job.job_id, "--reason", "why", "--json", *more]
        call_command(names[override], *arguments, stdout=io.StringIO())


@pytest.fixture
def doors(as_role, phase_data):
    """Return the three doors."""
    return Doors(as_role("operator"), phase_data(due_in=7_200)["endTime"])


def told(before):
    """Return what the audit was told since: action, statuses, what changed."""
    entries = AuditEntry.objects.filter(pk__gt=before, action__startswith="transition.")
    return [
        (entry.action, entry.old_status, entry.new_status, *sorted(entry.changes))
        for entry in entries.order_by("id")
    ]


class TestEveryOverride:
    @pytest.mark.parametrize("override", list(STATUS))
    def test_leaves_the_same_audit_through_each_door(self, doors, make_job, override):
        found = []
        for door in (doors.admin, doors.api, doors.command):
            job = make_job(STATUS[override])
            before = AuditEntry.objects.order_by("-id").values_list("pk", flat=True)[0]
            door(override, job)
            found.append(told(before))

        by_admin, by_api, by_command = found
        assert by_admin
        assert by_admin == by_api == by_command

    def test_of_a_new_transition_too(self, doors, now):
        fields = {
            "action": "schedule",
            "project_id": "4",
            "phase_id": "1",
            "phase_type_name": "Review",
            "project_status": "ACTIVE",
            "state": "END",
            "end_time": doors.end_time,
        }
        plan = doors.web.post(FORM, fields, follow=True).context["plan"]
        sent = {**fields, "plan": plan, "reason": "why", "confirm": "yes"}
        doors.web.post(FORM, sent)
        doors.rest.post(API, {**DATA, "phaseId": 2, "endTime": doors.end_time}, "json")
        call_command(
            "schedule_transition",
            *("--project-id", "4", "--phase-id", "3", "--phase-type-name", "Review"),
            *("--state", "END", "--end-time", doors.end_time),
            *("--project-status", "ACTIVE", "--json"),
            stdout=io.StringIO(),
        )

        jobs = ScheduledTransition.objects.order_by("phase_id")
        entries = AuditEntry.objects.filter(action="transition.scheduled")
        assert [job.phase_id for job in jobs] == ["1", "2", "3"]
        facts = {(e.old_status, e.new_status, *sorted(e.changes)) for e in entries}
        assert facts == {("", "scheduled", "endTime", "eventId")}


class TestServices:
    def test_are_the_same_behind_each_door(self):
        commands = {
            Override.CANCEL: (api.TransitionCancel, cancel_transition),
            Override.RUN_NOW: (api.TransitionRunNow, run_transition_now),
            Override.RETRY: (api.TransitionRetry, retry_transition),
        }
        for override, (view, command) in commands.items():
            service = services._SERVICES[override]
            assert view.service is service
            assert command.Command.service is service
        assert reschedule_transition.Command.service is update_transition
        assert services.update_transition is update_transition
