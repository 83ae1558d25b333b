"""What the API's tests share beside fixtures."""

from unittest.mock import patch

from django.db import connection
from django.test.utils import CaptureQueriesContext

from scheduling.models import IdempotencyKey
from tests.support.histories import a_dead_owner

PASSWORD = "a-secret-for-tests"  # noqa: S105 -- opens nothing
TRANSITIONS = "/api/v1/transitions/"


def assert_problem(response, status, code):
    """Check an answer to be a problem of that status and code; return its members."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]
    assert problem["category"] in {"validation", "scheduling", "network", "system"}
    return problem


def queries_of(client, path):
    """Return how many queries an answer costs.

    The first one that a user gets in a minute, or in a process, is counted by another
    statement than the next ones.
    """
    seen = []
    for _ in range(3):
        with CaptureQueriesContext(connection) as queries:
            assert client.get(path).status_code == 200
        seen.append(len(queries))
    return min(seen)


def views_below(path, resolver):
    """Yield path and view of every route below a resolver."""
    for pattern in resolver.url_patterns:
        below = path + str(pattern.pattern)
        if hasattr(pattern, "url_patterns"):
            yield from views_below(below, pattern)
        else:
            yield below, getattr(pattern.callback, "view_class", None)


def let_takers_die():
    """Let all that is being handled belong to a process that is gone."""
    IdempotencyKey.objects.update(owner=a_dead_owner())


def losing_the_answer(ask):
    """Let the process die after the request had its effect; return the answer it lost."""
    with patch("scheduling.api.idempotency.store"):
        lost = ask()
    let_takers_die()
    return lost
