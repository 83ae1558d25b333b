from datetime import UTC, datetime, timedelta

import pytest

from scheduling.domain.challenges import Challenge, Phase
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.relations import Relations

NOW = datetime(2030, 3, 7, 12, tzinfo=UTC)


def relations(**after):
    """Return the relations of phases: `p2="1"` follows the phase 1."""
    phases = [
        Phase(phase_id=name[1:], name=name, predecessor=before)
        for name, before in after.items()
    ]
    return Relations([challenge(*phases)])


def challenge(*phases, project="1"):
    return Challenge(
        challenge_id="7", project_id=project, status="ACTIVE", phases=tuple(phases)
    )


def keys(*numbers):
    return {("1", str(number)) for number in numbers}


class TestRelations:
    def test_knows_what_comes_before_and_after(self):
        known = relations(p1="", p2="1", p3="1")

        assert known.before(("1", "2")) == ("1", "1")
        assert known.before(("1", "1")) is None
        assert set(known.after(("1", "1"))) == keys(2, 3)
        assert list(known.after(("1", "3"))) == []

    def test_knows_nothing_of_other_projects(self):
        assert relations(p1="", p2="1").before(("2", "2")) is None

    def test_takes_the_later_of_two_readings_of_a_phase(self):
        first = challenge(Phase(phase_id="1", name="a"), Phase(phase_id="2", name="b"))
        later = challenge(
            Phase(phase_id="2", name="b"), Phase(phase_id="1", name="a", predecessor="2")
        )

        known = Relations([first, later])

        assert known.before(("1", "1")) == ("1", "2")
        assert known.challenge_of(("1", "1")) is later
        assert list(known.after(("1", "2"))) == [("1", "1")]

    def test_forgets_a_predecessor_that_a_later_reading_does_not_show(self):
        phases = Phase(phase_id="1", name="a"), Phase(phase_id="2", name="b")
        follows = Phase(phase_id="2", name="b", predecessor="1")

        known = Relations([challenge(phases[0], follows), challenge(*phases)])

        assert known.before(("1", "2")) is None
        assert list(known.after(("1", "1"))) == []


class TestAround:
    def test_reaches_one_back_and_all_the_way_on(self):
        known = relations(p1="", p2="1", p3="2", p4="3", p5="1")

        assert known.around(keys(2)) == keys(1, 2, 3, 4)

    def test_ends_in_a_circle(self):
        known = relations(p1="3", p2="1", p3="2")

        assert known.around(keys(1)) == keys(1, 2, 3)

    def test_keeps_what_was_never_read(self):
        assert relations().around(keys(9)) == keys(9)


class TestDepth:
    def test_counts_from_the_first_phase(self):
        known = relations(p3="2", p2="1", p1="", p4="1")

        assert [known.depth(("1", n)) for n in "1234"] == [1, 2, 3, 2]

    @pytest.mark.parametrize("order", ["1234", "4321", "3142"])
    def test_is_nothing_in_a_circle_and_behind_one(self, order):
        known = relations(p1="3", p2="1", p3="2", p4="3", p5="")

        assert [known.depth(("1", n)) for n in order] == [0, 0, 0, 0]
        assert known.depth(("1", "5")) == 1


class TestDuration:
    @pytest.mark.parametrize(
        ("start", "end", "lasts"),
        [
            (NOW, NOW + timedelta(hours=2), timedelta(hours=2)),
            (NOW, NOW, timedelta()),
            (NOW, NOW - timedelta(hours=1), None),
            (None, NOW, None),
            (NOW, None, None),
        ],
    )
    def test_is_that_between_the_scheduled_instants(self, start, end, lasts):
        phase = Phase(
            phase_id="1", name="a", scheduled_start_at=start, scheduled_end_at=end
        )

        assert Relations([challenge(phase)]).duration(("1", "1")) == lasts

    def test_of_an_unknown_phase_is_not_known(self):
        assert relations().duration(("1", "1")) is None


class TestIsDone:
    @pytest.mark.parametrize(
        ("actual", "done"),
        [
            ({}, []),
            ({"actual_start_at": NOW}, ["START"]),
            ({"actual_end_at": NOW}, ["START", "END"]),
        ],
    )
    def test_goes_by_the_actual_instants(self, actual, done):
        known = Relations([challenge(Phase(phase_id="1", name="a", **actual))])

        found = [kind for kind in TransitionKind if known.is_done("1", "1", kind)]

        assert found == done
