"""Messages for programs in the words of the pages."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from scheduling.admin.plain_words import plain, tell_conflicts
from scheduling.models import Challenge, Phase
from tests.support.histories import make_job

AT, TOLD = "2030-03-08T17:00:00.000Z", "Fri 8 Mar 2030 17:00:00.000 UTC"


class TestPlain:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (f"endTime {AT} is in the past", f"{TOLD} is in the past"),
            (f"from {AT} to {AT}", f"from {TOLD} to {TOLD}"),
            ("the endTime of 2030 is none", "the endTime of 2030 is none"),
        ],
    )
    def test_has_instants_as_the_pages_do(self, now, text, told):
        assert plain(text, now=now) == told


@pytest.mark.django_db
class TestTellConflicts:
    def test_names_the_phases_that_are_known(self, now):
        challenge = Challenge.objects.create(
            challenge_id="1", project_id="1", status="ACTIVE", read_at=now
        )
        Phase.objects.create(challenge=challenge, phase_id="67890", name="Registration")
        make_job(now=now, phase_id="67891", phase_type_name="Submission")
        detail = (
            f"the START of phase 67891 at {AT} would come before the END of its "
            f"predecessor 67890 at {AT}"
        )

        with CaptureQueriesContext(
            connection,
        ) as queries:
            told = tell_conflicts([detail, "phase 5 would end", detail], now=now)

        line = (
            f"the START of Submission (67891) at {TOLD} would come before the END of "
            f"its predecessor Registration at {TOLD}"
        )
        assert told == [line, "phase 5 would end", line]
        assert len(queries) == 2
