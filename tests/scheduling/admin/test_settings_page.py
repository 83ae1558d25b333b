"""The page of the settings: everybody sees what is in force, admins change it."""

import pytest
from django.urls import reverse

from scheduling.conf import scheduler_settings
from scheduling.models import AuditEntry

PAGE = "/admin/settings/"
RETRIES = "SCHEDULER_MAX_RETRIES"

pytestmark = pytest.mark.django_db(transaction=True)


class TestSettingsPage:
    def test_stands_in_the_sidebar_and_shows_a_viewer_what_is_in_force(self, as_role):
        viewer = as_role("viewer")

        page = viewer.get(PAGE).content.decode()

        assert RETRIES in page
        assert "SCHEDULER_JOB_TIMEOUT" not in page
        assert f'name="{RETRIES}"' not in page
        assert PAGE in viewer.get("/admin/").content.decode()

    def test_an_admin_sets_and_takes_back(self, as_role):
        admin = as_role("admin")

        answer = admin.post(PAGE, {RETRIES: "7", "reason": "unsteady"})
        assert (answer.status_code, answer.url) == (302, f"{PAGE}?done=1")
        assert scheduler_settings().max_retries == 7
        assert 'value="7"' in admin.get(PAGE).content.decode()

        admin.post(PAGE, {RETRIES: "", "reason": "steady"})
        assert scheduler_settings().max_retries == 3
        assert [
            (entry.actor, entry.reason, entry.changes["new"])
            for entry in AuditEntry.objects.filter(action="settings.changed").order_by("id")
        ] == [("user:admin-1", "unsteady", 7), ("user:admin-1", "steady", 3)]

    def test_says_what_is_allowed_and_who_changed_it_last(self, as_role):
        admin = as_role("admin")
        for value in ("7", "9"):
            admin.post(PAGE, {RETRIES: value, "reason": f"<i>unsteady {value}</i>"})

        page = as_role("viewer").get(PAGE).content.decode()

        assert "From 0 to 100" in page
        assert page.count("Last changed by admin-1") == 1
        assert "7 → 9</a>: &lt;i&gt;unsteady 9&lt;/i&gt;" in page

    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({RETRIES: "700", "reason": "x"}, f"{RETRIES} Input should be less than"),
            ({RETRIES: "many", "reason": "x"}, f"{RETRIES} must be a whole number"),
            ({"SCHEDULER_LOG_JOB_DETAILS": "no", "reason": "x"}, "must be true or false"),
            ({RETRIES: "7"}, "reason is required"),
            ({"reason": "x"}, "Nothing differs"),
        ],
    )
    def test_tells_what_is_wrong(self, as_role, fields, told):
        page = as_role("admin").post(PAGE, fields).content.decode()

        assert told in page
        assert not AuditEntry.objects.filter(action="settings.changed").exists()

    def test_an_operator_may_not(self, as_role):
        assert as_role("operator").post(PAGE, {RETRIES: "7"}).status_code == 403

    def test_is_the_only_page_of_it(self, as_role):
        assert reverse("admin:settings") == PAGE
        assert as_role("admin").get("/admin/constance/config/").status_code == 404
