"""Claims as a worker makes them, for tests of what becomes of claimed jobs."""

from datetime import timedelta

from scheduling.adapters.claims import Claim, complete_and_claim
from scheduling.adapters.owner import Owner


def claim_due(*, limit=9, most_running=50):
    """Claim what is due; return the token and the jobs."""
    claim = Claim(
        owner=Owner.current(),
        limit=limit,
        most_running=most_running,
        age_limit=timedelta(hours=72),
    )
    return claim.token, complete_and_claim(claim.token, [], claim)[1]
