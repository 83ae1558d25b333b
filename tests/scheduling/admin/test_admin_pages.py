"""The admin: who signs in, what they see, and that nobody changes anything."""

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.urls import NoReverseMatch, reverse

from autopilot_site.apps import APPS_WITHOUT_PAGES
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from scheduling.services.schedule import schedule_transition

PASSWORD = "a-secret-for-tests"  # noqa: S105 -- opens nothing
JOBS = "/admin/scheduling/scheduledtransition/"
AUDIT = "/admin/scheduling/auditentry/"


@pytest.fixture
def sign_in(client, db):
    """Return a maker of users who are signed in through the form."""

    def make(group=None, **fields):
        user = get_user_model().objects.create_user("uma", password=PASSWORD, **fields)
        if group:
            user.groups.add(Group.objects.get(name=group))
        return client.post(
            "/admin/login/?next=/admin/", {"username": "uma", "password": PASSWORD}
        )

    return make


@pytest.fixture
def job(db, operator, phase_data, now):
    """Return a scheduled job."""
    data = phase_data(phaseTypeName="<b>Registration</b>")
    schedule_transition(data, actor=operator, now=now)
    return ScheduledTransition.objects.get()


class TestSignIn:
    @pytest.mark.parametrize("group", ["viewer", "operator", "admin"])
    def test_members_of_the_groups_may(self, client, sign_in, group):
        assert sign_in(group).status_code == 302

        index = client.get("/admin/")
        assert index.status_code == 200
        assert JOBS in index.content.decode()
        assert AUDIT in index.content.decode()

    def test_superusers_may(self, client, sign_in):
        assert sign_in(is_superuser=True).status_code == 302
        assert client.get("/admin/").status_code == 200

    @pytest.mark.parametrize(
        "fields", [{}, {"is_staff": True}, {"group": "viewer", "is_active": False}]
    )
    def test_others_may_not(self, client, sign_in, fields):
        response = sign_in(**fields)

        assert response.status_code == 200
        assert response.context["form"].errors
        assert client.get("/admin/").status_code == 302

    @pytest.mark.parametrize("path", ["/admin/", JOBS, AUDIT, f"{AUDIT}1/change/"])
    def test_is_asked_for_on_every_page(self, client, db, path):
        response = client.get(path)

        assert response.status_code == 302
        assert response.headers["Location"].startswith("/admin/login/")

    def test_ends_with_the_role(self, client, sign_in):
        sign_in("viewer")
        get_user_model().objects.get().groups.clear()

        assert client.get(JOBS).status_code == 302


@pytest.mark.parametrize("group", ["viewer", "admin", None])
class TestPages:
    @pytest.fixture(autouse=True)
    def _signed_in(self, sign_in, group):
        sign_in(group, is_superuser=group is None)

    def test_list_and_show_jobs_with_texts_escaped(self, client, job, group):
        listed = client.get(JOBS).content.decode()
        shown = client.get(f"{JOBS}{job.pk}/change/").content.decode()

        for html in (listed, shown):
            assert job.job_id in html
            assert "&lt;b&gt;Registration&lt;/b&gt;" in html
            assert "<b>Registration</b>" not in html

    def test_list_and_show_the_audit(self, client, job, operator, now, group):
        cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)
        entry = AuditEntry.objects.last()

        listed = client.get(AUDIT).content.decode()
        shown = client.get(f"{AUDIT}{entry.pk}/change/").content.decode()

        for html in (listed, shown):
            assert "transition.cancelled" in html
            assert "user:olivia" in html

    @pytest.mark.parametrize(
        ("path", "query", "found"),
        [
            (JOBS, {"q": "12345"}, 1),
            (JOBS, {"q": "no-such-job"}, 0),
            (JOBS, {"q": "\x00"}, 0),
            (JOBS, {"q": "'; --"}, 0),
            (JOBS, {"status__exact": "scheduled", "state__exact": "END"}, 1),
            (JOBS, {"status__exact": "failed"}, 0),
            (JOBS, {"due_at__year": "2001"}, 0),
            (AUDIT, {"q": "olivia"}, 1),
            (AUDIT, {"action": "transition.scheduled"}, 1),
            (AUDIT, {"action": "transition.cancelled"}, 0),
            (AUDIT, {"role": "operator"}, 1),
        ],
    )
    @pytest.mark.usefixtures("job", "group")
    def test_search_and_filter(self, client, path, query, found):
        response = client.get(path, query)

        assert response.status_code == 200
        rows = response.context["cl"].result_list
        if query.get("q") == "\x00":
            assert "Null characters are not allowed" in response.content.decode()
        else:
            assert len(rows) == found

    @pytest.mark.parametrize("verb", ["add", "change", "delete"])
    @pytest.mark.parametrize("model", [ScheduledTransition, AuditEntry])
    def test_change_nothing(self, client, job, model, verb, group):
        # Of the audit, beside the log-in's: the last is the job's.
        row = model.objects.last()
        base = JOBS if model is ScheduledTransition else AUDIT
        before = list(model.objects.values())

        response = client.post(
            f"{base}add/" if verb == "add" else f"{base}{row.pk}/{verb}/",
            {"post": "yes", "status": "cancelled", "reason": "x"},
        )

        assert response.status_code == 403
        refusal = AuditEntry.objects.last()
        assert refusal.action == "access.refused"
        assert refusal.changes == {"method": "POST", "path": response.request["PATH_INFO"]}
        after = [row for row in model.objects.values() if row["id"] != refusal.pk]
        assert (after if model is AuditEntry else list(model.objects.values())) == before

    @pytest.mark.parametrize("path", [JOBS, AUDIT])
    def test_have_no_action_for_a_selection(self, client, job, path, group):
        selected = ScheduledTransition if path == JOBS else AuditEntry
        row = selected.objects.last()
        before = (ScheduledTransition.objects.count(), AuditEntry.objects.count())

        response = client.post(
            path, {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"}
        )

        assert "Are you sure" not in response.content.decode()
        assert (ScheduledTransition.objects.count(), AuditEntry.objects.count()) == before

    @pytest.mark.parametrize("path", [JOBS, AUDIT])
    def test_offer_neither_adding_nor_deleting(self, client, job, path, group):
        html = client.get(path).content.decode()

        assert f'href="{path}add/' not in html
        assert "delete_selected" not in html


class TestSite:
    def test_has_no_pages_that_run_code_or_show_tokens(self):
        labels = {model._meta.app_label for model in admin.site._registry}

        assert labels == {"auth", "scheduling"}
        for label in APPS_WITHOUT_PAGES:
            with pytest.raises(NoReverseMatch):
                reverse("admin:app_list", kwargs={"app_label": label})

    @pytest.mark.parametrize("path", ["django_q/task/", "django_q/schedule/add/"])
    def test_answers_nothing_where_they_were(self, client, sign_in, path):
        sign_in(is_superuser=True)

        assert client.get(f"/admin/{path}").status_code == 404
