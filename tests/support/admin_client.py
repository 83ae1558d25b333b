"""Browsers of the admin's users, without the log-in form."""

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import Client

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def signed_in(group, *, name=None):
    """Return a browser in which a member of the group is signed in."""
    user = get_user_model().objects.create_user(name or f"{group}-1")
    user.groups.add(Group.objects.get(name=group))
    browser = Client()
    browser.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return browser


def page_of(response, *, status=200):
    """Return a page's text, once it is sure that nothing hostile lives in it."""
    assert response.status_code == status, response.content.decode()[:2_000]
    html = response.content.decode()
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    return html
