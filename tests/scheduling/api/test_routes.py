"""Every route, method and caller, from the URLconf itself: who gets in, how far."""

import pytest
from django.urls import URLResolver, get_resolver
from rest_framework.test import APIClient

from scheduling.api.tokens import RolesTokenSerializer
from tests.scheduling.api.forged import FORGED, sign
from tests.scheduling.api.routes_table import (
    METHODS,
    PUBLIC,
    ROLES,
    ROUTES,
    least_role,
    path_of,
)
from tests.scheduling.api.test_access import claims_of

PREFIX = "api/v1/"
# What a request without a body may be answered where it is let in: nothing is there.
LET_IN = {200, 201, 202, 400, 404, 409, 412, 415}
GUARDED = [route for route, methods in ROUTES.items() if PUBLIC not in methods.values()]
OPEN = [route for route in ROUTES if route not in GUARDED]


def routes_of(resolver, prefix=""):
    """Return every path that a URLconf answers, as it is written there."""
    for entry in resolver.url_patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from routes_of(entry, path)
        else:
            yield path


def statuses(client, route):
    """Return the status of each method; none may fail or say more than it should."""
    answers = {method: client.generic(method, path_of(route)) for method in METHODS}
    for answer in answers.values():
        assert answer.status_code < 500
        assert "Traceback" not in answer.content.decode()
    return {method: answer.status_code for method, answer in answers.items()}


def client_with(token):
    return APIClient(HTTP_AUTHORIZATION=f"Bearer {token}")


class TestTable:
    def test_has_a_row_for_every_route_and_no_other(self):
        there = {
            path.removeprefix(PREFIX)
            for path in routes_of(get_resolver())
            if path.startswith(PREFIX)
        }

        assert there == set(ROUTES)


@pytest.mark.django_db
class TestGuardedRoutes:
    @pytest.mark.parametrize("route", GUARDED)
    def test_are_closed_to_whoever_has_no_token(self, anonymous, route):
        assert set(statuses(anonymous, route).values()) == {401}

    @pytest.mark.parametrize("kind", FORGED)
    @pytest.mark.parametrize("route", GUARDED)
    def test_are_closed_to_forged_tokens(self, make_user, route, kind):
        claims = claims_of(make_user("adam", group="admin"))

        got = statuses(client_with(FORGED[kind](claims, sign(claims))), route)

        assert set(got.values()) == {401}

    @pytest.mark.parametrize("state", ["disabled", "deleted", "new password"])
    @pytest.mark.parametrize("route", GUARDED)
    def test_are_closed_to_a_user_who_lost_access(self, make_user, route, state):
        user = make_user("adam", group="admin", is_superuser=True)
        client = client_with(RolesTokenSerializer.get_token(user).access_token)
        match state:
            case "disabled":
                user.is_active = False
                user.save()
            case "deleted":
                user.delete()
            case _:
                user.set_password("another")
                user.save()

        assert set(statuses(client, route).values()) == {401}

    @pytest.mark.parametrize("route", GUARDED)
    def test_are_closed_to_a_user_without_a_role(self, as_stranger, route):
        assert set(statuses(as_stranger, route).values()) == {403}

    @pytest.mark.parametrize("role", [*ROLES, "superuser"])
    @pytest.mark.parametrize("route", GUARDED)
    def test_open_to_each_role_what_is_its_own(self, make_user, client_of, route, role):
        is_superuser = role == "superuser"
        user = make_user(
            "uma", group=None if is_superuser else role, is_superuser=is_superuser
        )
        rank = 2 if is_superuser else ROLES.index(role)

        for method, status in statuses(client_of(user), route).items():
            least = least_role(route, method)
            if least is None:
                assert status == 405, method
            elif ROLES.index(least) > rank:
                assert status == 403, method
            else:
                assert status in LET_IN, method


@pytest.mark.django_db
class TestOpenRoutes:
    @pytest.mark.parametrize("route", OPEN)
    def test_need_no_token_and_have_their_methods_alone(self, anonymous, route):
        got = statuses(anonymous, route)

        for method, status in got.items():
            assert status == (400 if least_role(route, method) else 405), method

    @pytest.mark.parametrize("route", OPEN)
    def test_give_nothing_more_to_an_admin(self, as_admin, anonymous, route):
        assert statuses(as_admin, route) == statuses(anonymous, route)
