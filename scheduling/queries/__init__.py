"""Reads that feed a screen or a client: rows by the API's filters, and how each looks.

One kind of row a file. The names below are those of the jobs, which every door shows.
"""

from scheduling.queries.filters import camel_case
from scheduling.queries.jobs import (
    FILTERS,
    LONGEST_SEARCH,
    ORDERINGS,
    list_jobs,
    show_job,
)

__all__ = [
    "FILTERS",
    "LONGEST_SEARCH",
    "ORDERINGS",
    "camel_case",
    "list_jobs",
    "show_job",
]
