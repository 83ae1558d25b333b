"""`GET /metrics`, in Prometheus' text format (contract, section 7)."""

from concurrent.futures import TimeoutError as NoAnswerError
from datetime import datetime

from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from autopilot_site.health.facts import gather
from autopilot_site.health.judgement import judge, without_answer
from autopilot_site.health.reading import ANSWER_SECONDS, SharedReader
from autopilot_site.metrics.collector import ProductCollector
from autopilot_site.metrics.totals import count_all
from scheduling.conf import recovery_settings


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Tell all metrics.

    Without a database those that come from it are missing, and `autopilot_check_status`
    says so; likewise where it keeps us waiting.
    """
    now = timezone.now()
    try:
        found = _reader.read(now=now)
    except NoAnswerError:
        found = ProductCollector(without_answer(now=now, seconds=ANSWER_SECONDS))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(found)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(
        encode(registry),
        content_type=content_type,
        headers={"Cache-Control": "no-store"},
    )


def read_metrics(*, now: datetime) -> ProductCollector:
    """Read everything that a scrape tells."""
    facts = gather(now=now)
    health = judge(facts, now=now, recovery=recovery_settings())
    try:
        counts = count_all() if facts.database is not None else None
    except DatabaseError:
        counts = None
    return ProductCollector(health, database=facts.database, counts=counts)


_reader = SharedReader(lambda now: read_metrics(now=now))
