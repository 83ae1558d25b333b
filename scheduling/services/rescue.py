"""Free what dead workers hold; the due-broker does it by itself, twice a second."""

from scheduling.adapters.claim_ends import count_abandoned, rescue_abandoned


def rescue_jobs() -> int:
    """Free the jobs of dead owners, and return how many; the audit has each."""
    return rescue_abandoned()


def count_jobs_to_rescue() -> int:
    """Return how many jobs `rescue_jobs` would free now."""
    return count_abandoned()
