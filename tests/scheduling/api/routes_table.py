"""Every route under /api/v1/, and who may use which method of it (contract, section 4).

A route of the URLconf that stands in no row here fails tests/scheduling/api/test_routes.py.
"""

import re

# The least role; PUBLIC asks for no token at all.
PUBLIC, VIEWER, OPERATOR, ADMIN = "public", "viewer", "operator", "admin"
ROLES = (VIEWER, OPERATOR, ADMIN)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

ROUTES = {
    "auth/token/": {"POST": PUBLIC},
    "auth/token/refresh/": {"POST": PUBLIC},
    "auth/token/blacklist/": {"POST": PUBLIC},
    "transitions/": {"GET": VIEWER, "POST": OPERATOR},
    "transitions/bulk/": {"POST": OPERATOR},
    "transitions/<jobId>/": {"GET": VIEWER, "PATCH": OPERATOR},
    "transitions/<jobId>/cancel/": {"POST": OPERATOR},
    "transitions/<jobId>/run-now/": {"POST": OPERATOR},
    "transitions/<jobId>/retry/": {"POST": OPERATOR},
    "transitions/<jobId>/audit/": {"GET": VIEWER},
    "schedule-adjustments/": {"POST": OPERATOR},
    "audit/": {"GET": VIEWER},
    "challenges/": {"GET": VIEWER},
    "challenges/<challengeId>/": {"GET": VIEWER},
    "dead-letters/": {"GET": VIEWER},
    "dead-letters/<id>/": {"GET": VIEWER},
    "dead-letters/<id>/replay/": {"POST": OPERATOR},
    "dead-letters/<id>/discard/": {"POST": OPERATOR},
    "circuit-breakers/": {"GET": VIEWER},
    "circuit-breakers/<name>/reset/": {"POST": ADMIN},
    "settings/": {"GET": VIEWER, "PATCH": ADMIN},
    "stats/": {"GET": VIEWER},
    "recovery/runs/": {"GET": VIEWER, "POST": OPERATOR},
    "recovery/runs/<runId>/": {"GET": VIEWER},
}
# What stands for each part of a path that names something.
SAMPLES = {
    "jobId": "job-1-2-3",
    "challengeId": "12345",
    "runId": "5e1f8a0c-9b2d-4c3e-8f70-1a2b3c4d5e6f",
    "id": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    "name": "scheduler",
}


def path_of(route):
    """Return an address of a route; what it names is not there."""
    return "/api/v1/" + re.sub(r"<(\w+)>", lambda part: SAMPLES[part[1]], route)


def least_role(route, method):
    """Return who may use the method of a route; None where it has no such method."""
    return ROUTES[route].get("GET" if method == "HEAD" else method)
