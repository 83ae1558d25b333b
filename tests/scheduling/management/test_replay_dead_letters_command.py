"""`manage.py replay_dead_letters`: those named or all new ones, and what became of each."""

import io
import json
import uuid
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, DeadLetter, ScheduledTransition


@pytest.fixture
def add_letter(db, now):
    """Return a maker of dead letters: of a good record for a phase, or of garbage."""
    numbers = iter(range(1_000))

    def make(phase_id=None, **fields):
        topic = "challenge.notification.create"
        end = format_instant(now + timedelta(hours=1))
        phases = [{"id": phase_id, "name": "Review", "scheduledEndDate": end}]
        payload = {"id": phase_id, "projectId": 5, "status": "ACTIVE", "phases": phases}
        value = {"topic": topic, "timestamp": format_instant(now), "payload": payload}
        number = next(numbers)
        return DeadLetter.objects.create(
            **{
                "cluster_id": "c",
                "topic": topic,
                "partition": 0,
                "offset": number,
                "value": json.dumps(value).encode() if phase_id else b"garbage",
                "code": "invalid_request",
                "category": "validation",
                "message": "the record: is no JSON",
                "set_aside_at": now + timedelta(seconds=number),
                **fields,
            }
        )

    return make


def run(*arguments, fails=False):
    """Return what is printed; with `fails` the exit code has to be 1."""
    output = io.StringIO()
    if not fails:
        call_command("replay_dead_letters", *arguments, stdout=output)
        return output.getvalue()
    with pytest.raises(CommandError) as refusal:
        call_command("replay_dead_letters", *arguments, stdout=output)
    assert refusal.value.returncode == 1
    return output.getvalue()


class TestReplayDeadLetters:
    def test_replays_those_named(self, add_letter):
        named, other = add_letter(11), add_letter(12)

        output = run(str(named.pk), "--actor", "sara")

        assert output == f"{named.pk} is handled\n"
        assert [job.phase_id for job in ScheduledTransition.objects.all()] == ["11"]
        other.refresh_from_db()
        assert other.status == "new"
        entry = AuditEntry.objects.get(action="dead_letter.replayed")
        assert entry.actor == "cli:sara"

    def test_replays_all_that_are_new_the_oldest_first(self, add_letter):
        letters = [add_letter(number) for number in (11, 12, 13)]
        add_letter(14, status="discarded")

        answer = json.loads(run("--all", "--json"))

        assert answer == {
            "replayed": 3,
            "failedAgain": 0,
            "refused": 0,
            "results": [
                {"id": str(letter.pk), "outcome": "replayed"} for letter in letters
            ],
        }

    def test_of_one_topic_only(self, add_letter):
        add_letter(11)
        wanted = add_letter(topic="autopilot.command")

        answer = json.loads(
            run("--all", "--topic", "autopilot.command", "--json", fails=True)
        )

        assert [result["id"] for result in answer["results"]] == [str(wanted.pk)]

    def test_tells_what_failed_again_and_goes_on(self, add_letter):
        garbage, good = add_letter(), add_letter(11)

        answer = json.loads(run("--all", "--json", fails=True))

        again = DeadLetter.objects.get(replay_of=garbage.pk)
        assert answer["results"] == [
            {
                "id": str(garbage.pk),
                "outcome": "failedAgain",
                "deadLetterId": str(again.pk),
            },
            {"id": str(good.pk), "outcome": "replayed"},
        ]
        assert (answer["replayed"], answer["failedAgain"]) == (1, 1)

    def test_refuses_what_was_dealt_with_or_is_unknown(self, add_letter):
        settled, unknown = add_letter(status="replayed"), uuid.uuid4()

        answer = json.loads(run(str(settled.pk), str(unknown), "--json", fails=True))

        codes = [result["error"]["code"] for result in answer["results"]]
        assert codes == ["conflict", "not_found"]
        assert answer["refused"] == 2

    def test_replays_an_id_that_is_named_twice_once(self, add_letter):
        letter = add_letter(11)

        assert run(str(letter.pk), str(letter.pk)) == f"{letter.pk} is handled\n"

    def test_says_where_there_is_nothing_to_do(self, db):
        assert run("--all") == "There is no new dead letter.\n"

    @pytest.mark.parametrize(
        "arguments",
        [[], [str(uuid.UUID(int=1)), "--all"], [str(uuid.UUID(int=1)), "--topic", "a"]],
    )
    def test_bad_usage_is_told_from_a_refusal(self, db, arguments):
        with pytest.raises(CommandError) as refusal:
            run(*arguments)

        assert refusal.value.returncode == 2

    def test_refuses_what_can_t_be_an_id(self, db):
        with pytest.raises(CommandError, match="'x' is no id of a dead letter"):
            run("x")
