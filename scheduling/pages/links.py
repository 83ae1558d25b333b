"""The addresses of the admin's pages, where one page names another."""

from urllib.parse import urlencode

from django.urls import reverse

JOBS = "admin:scheduling_scheduledtransition_changelist"


def jobs_url(**filters: str) -> str:
    """Return the address of the list of jobs, filtered."""
    query = urlencode(filters)
    return reverse(JOBS) + (f"?{query}" if query else "")


def job_url(job_id: str) -> str:
    """Return the address of one job's page, also after its row was cleaned up."""
    return reverse("admin:job", args=[job_id])
