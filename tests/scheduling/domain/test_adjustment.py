from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.domain.adjustment import plan_adjustment
from scheduling.domain.challenges import Challenge, Phase
from scheduling.domain.changes import LiveJob, OnConflict, ScheduleChange
from scheduling.domain.errors import (
    PastScheduleTimeError,
    ScheduleTooFarError,
    ScheduleTooSoonError,
)
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.relations import Relations

NOW = datetime(2030, 3, 7, 12, tzinfo=UTC)
START, END = TransitionKind.START, TransitionKind.END
PROJECT = "1"
REJECT, SKIP, SHIFT = OnConflict.REJECT, OnConflict.SKIP, OnConflict.SHIFT
FAR = 1000


def hours(number):
    """Return the instant that many hours from now."""
    return NOW + timedelta(hours=number)


def window(due_at):
    """Judge an instant as the services do: not past, a second ahead, not too far."""
    if due_at <= NOW:
        return PastScheduleTimeError("2020-01-01T00:00:00.000Z", "is in the past")
    if due_at < NOW + timedelta(seconds=1):
        return ScheduleTooSoonError("2020-01-01T00:00:00.000Z", "is too soon")
    return (
        ScheduleTooFarError("2020-01-01T00:00:00.000Z", "is too far")
        if due_at > hours(FAR)
        else None
    )


def change(phase, kind, at, **fields):
    return ScheduleChange(
        project_id=PROJECT, phase_id=str(phase), kind=kind, new_due_at=hours(at), **fields
    )


def jobs(*running, **instants):
    """Return live jobs: `s5=2` is the START of phase 5, due in two hours."""
    found = {}
    for name, at in instants.items():
        kind = {"s": START, "e": END}[name[0]]
        found[PROJECT, name[1:], kind] = LiveJob(
            job_id=f"job-{name}", due_at=hours(at), is_running=name in running
        )
    return found


def phase(number, start, end, *, after=None, **fields):
    return Phase(
        phase_id=str(number),
        name=f"Phase {number}",
        scheduled_start_at=None if start is None else hours(start),
        scheduled_end_at=None if end is None else hours(end),
        predecessor="" if after is None else str(after),
        **fields,
    )


def challenge(*phases):
    return Relations(
        [Challenge(challenge_id="7", project_id=PROJECT, status="ACTIVE", phases=phases)]
    )


# Three phases of two hours, one after the other.
CHAIN = challenge(phase(1, 0, 2), phase(2, 2, 4, after=1), phase(3, 4, 6, after=2))
CHAIN_JOBS = jobs(e1=2, s2=2, e2=4, s3=4, e3=6)


def plan(*changes, live=CHAIN_JOBS, relations=CHAIN, on_conflict=REJECT, is_atomic=True):
    return plan_adjustment(
        changes,
        live=live,
        relations=relations,
        on_conflict=on_conflict,
        is_atomic=is_atomic,
        window=window,
    )


def instants(made):
    """Return what a plan moves: `e1` to the hours from now."""
    return {
        f"{move.identity[2].value[0].lower()}{move.identity[1]}": (move.due_at - NOW)
        / timedelta(hours=1)
        for move in made.moves
    }


def types(made):
    return [conflict.type.value for conflict in made.conflicts]


def codes(made):
    return [(error.index, error.code) for error in made.errors]


class TestPlanAdjustment:
    def test_moves_a_job_to_another_instant(self):
        made = plan(change(3, END, 8))

        (move,) = made.moves
        assert move.job.job_id == "job-e3"
        assert (move.due_at, move.index) == (hours(8), 0)
        assert made.is_success
        assert made.unchanged == made.conflicts == made.errors == ()

    def test_leaves_alone_what_stands_there_already(self):
        made = plan(change(3, END, 6), change(2, END, 3))

        assert made.unchanged == (0,)
        assert instants(made) == {"e2": 3}

    def test_honours_a_millisecond(self):
        later = ScheduleChange(
            project_id=PROJECT,
            phase_id="3",
            kind=END,
            new_due_at=hours(6) + timedelta(milliseconds=1),
        )

        assert len(plan(later).moves) == 1

    def test_makes_a_job_where_there_is_none_and_the_phase_is_named(self):
        made = plan(change(9, START, 5, phase_type_name="Review"))

        (move,) = made.moves
        assert move.job is None
        assert move.identity == (PROJECT, "9", START)

    def test_without_job_and_name_it_is_an_error(self):
        made = plan(change(9, END, 5), change(3, END, 8))

        assert codes(made) == [(0, "job_not_found")]
        assert (made.code, made.moves) == ("job_not_found", ())

    @pytest.mark.parametrize(
        ("at", "code"), [(0.0001, "schedule_too_soon"), (FAR + 1, "schedule_too_far")]
    )
    def test_an_instant_outside_the_window_is_an_error(self, at, code):
        made = plan(change(9, END, at, phase_type_name="Review"))

        assert codes(made) == [(0, code)]
        assert made.code == code

    def test_an_overdue_job_that_shall_stay_where_it_is_is_unchanged(self):
        made = plan(change(1, END, -1), live=jobs("e1", e1=-1), relations=challenge())

        assert (made.unchanged, made.conflicts) == ((0,), ())

    def test_names_errors_in_the_order_of_the_request(self):
        made = plan(change(8, END, 1), change(3, END, FAR + 1), change(9, END, 1))

        assert [index for index, _ in codes(made)] == [0, 1, 2]

    def test_nothing_to_change_is_a_success(self):
        assert plan().is_success


DUPLICATE = (change(3, END, 8), change(3, END, 9))
BACKWARDS = (change(2, START, 3), change(2, END, 2.5))
TOO_EARLY = (change(1, END, 3),)
RUNNING = (change(2, START, 3),)
PAST = (change(3, END, -1),)
RUNNING_JOBS = {**CHAIN_JOBS, **jobs("s2", s2=2)}
CONFLICTS = {
    "duplicate_change": (DUPLICATE, CHAIN_JOBS, "3", "3"),
    "end_before_start": (BACKWARDS, CHAIN_JOBS, "2", "2"),
    "successor_before_predecessor": (TOO_EARLY, CHAIN_JOBS, "2", "1"),
    "job_running": (RUNNING, RUNNING_JOBS, "2", "job-s2"),
    "past_time": (PAST, CHAIN_JOBS, "3", None),
}
# Of a phase that nothing else touches.
APART = change(50, END, 9, phase_type_name="Apart")


@pytest.mark.parametrize(
    ("kind", "changes", "live", "phase_id", "other"),
    [(name, *values) for name, values in CONFLICTS.items()],
)
class TestConflicts:
    def test_are_told_with_what_they_conflict(self, kind, changes, live, phase_id, other):
        (conflict,) = plan(*changes, live=live).conflicts

        assert conflict.type == kind
        assert (conflict.phase_id, conflict.conflicts_with) == (phase_id, other)
        assert conflict.detail

    def test_refuse_all_when_rejected(self, kind, changes, live, phase_id, other):
        made = plan(*changes, APART, live=live)

        assert (made.moves, made.code) == ((), "schedule_conflict")

    def test_refuse_only_themselves_without_atomic(
        self, kind, changes, live, phase_id, other
    ):
        made = plan(*changes, APART, live=live, is_atomic=False)

        assert instants(made) == {"e50": 9}
        assert made.is_success
        assert types(made) == [kind]

    def test_without_atomic_and_nothing_left_refuse_all(
        self, kind, changes, live, phase_id, other
    ):
        made = plan(*changes, live=live, is_atomic=False)

        assert (made.moves, made.code) == ((), "schedule_conflict")

    @pytest.mark.parametrize("is_atomic", [True, False])
    def test_are_left_out_when_skipped(
        self, kind, changes, live, phase_id, other, is_atomic
    ):
        made = plan(*changes, APART, live=live, on_conflict=SKIP, is_atomic=is_atomic)

        assert instants(made) == {"e50": 9}
        assert made.is_success
        assert types(made) == [kind]

    @pytest.mark.parametrize("is_atomic", [True, False])
    def test_skipped_ones_alone_are_a_success(
        self, kind, changes, live, phase_id, other, is_atomic
    ):
        made = plan(*changes, live=live, on_conflict=SKIP, is_atomic=is_atomic)

        assert (made.moves, made.code) == ((), "")

    def test_of_all_types_but_one_refuse_a_shift(
        self, kind, changes, live, phase_id, other
    ):
        made = plan(*changes, APART, live=live, on_conflict=SHIFT)

        assert set(types(made)) == {kind}
        assert made.is_success == (kind == "successor_before_predecessor")


class TestEndBeforeStart:
    @pytest.mark.parametrize(
        "changes",
        [
            (change(1, END, 1),),
            (change(1, START, 4),),
            (change(1, START, 3.5), change(1, END, 3)),
        ],
    )
    def test_is_judged_in_the_request_and_against_what_is_live(self, changes):
        made = plan(*changes, live=jobs(s1=2, e1=3), relations=challenge())

        assert types(made) == ["end_before_start"]

    def test_equal_instants_are_none(self):
        made = plan(change(1, END, 2), live=jobs(s1=2, e1=3), relations=challenge())

        assert made.is_success

    def test_phases_of_other_projects_don_t_count(self):
        live = {("2", "1", START): LiveJob(job_id="x", due_at=hours(9))} | jobs(e1=3)

        assert plan(change(1, END, 4), live=live, relations=challenge()).is_success


class TestSuccessorBeforePredecessor:
    def test_compares_the_end_where_the_successor_has_no_start(self):
        made = plan(change(1, END, 5), live=jobs(e1=2, e2=4))

        assert types(made) == ["successor_before_predecessor"]

    def test_compares_the_end_where_the_start_is_done(self):
        started = phase(2, 2, 4, after=1, actual_start_at=hours(-1))
        relations = challenge(phase(1, 0, 2), started)

        fine = plan(change(1, END, 3), relations=relations)
        wrong = plan(change(1, END, 5), relations=relations)

        assert fine.is_success
        assert types(wrong) == ["successor_before_predecessor"]

    def test_equal_instants_are_none(self):
        assert plan(change(1, END, 1), change(2, START, 1)).is_success

    def test_a_successor_moved_before_its_predecessor_is_one(self):
        made = plan(change(2, START, 1))

        assert types(made) == ["successor_before_predecessor"]

    def test_both_moved_together_are_none(self):
        made = plan(change(1, END, 3), change(2, START, 3))

        assert made.is_success

    def test_what_stood_so_before_is_none(self):
        made = plan(change(3, END, 8), live=jobs(e1=3, s2=2, e2=4, s3=4, e3=6))

        assert made.is_success

    def test_a_predecessor_without_a_live_end_says_nothing(self):
        assert plan(change(2, START, 1), live=jobs(s2=2, e2=4)).is_success

    def test_a_predecessor_that_has_ended_says_nothing(self):
        ended = phase(1, 0, 2, actual_end_at=hours(-1))
        relations = challenge(ended, phase(2, 2, 4, after=1))

        assert plan(change(2, START, 1), relations=relations).is_success

    def test_a_challenge_never_read_has_no_relations(self):
        assert plan(change(1, END, 5), relations=challenge()).is_success


class TestSkip:
    def test_leaves_out_all_that_take_part(self):
        made = plan(
            change(1, END, 5), change(2, START, 4.5), change(3, END, 7), on_conflict=SKIP
        )

        # The START after the END of its phase is one more conflict, and so is that END.
        assert instants(made) == {"e3": 7}

    def test_leaves_out_what_conflicts_only_because_others_are_left_out(self):
        # START 2 may move with END 1 only, and that is in the past.
        made = plan(change(1, END, -1), change(2, START, 1), on_conflict=SKIP)

        assert types(made) == ["past_time", "successor_before_predecessor"]
        assert made.moves == ()

    def test_does_not_excuse_errors(self):
        made = plan(change(9, END, 1), change(3, END, -1), APART, on_conflict=SKIP)

        assert (made.code, made.moves) == ("job_not_found", ())

    def test_without_atomic_goes_on_past_errors(self):
        made = plan(
            change(9, END, 1),
            change(3, END, -1),
            APART,
            on_conflict=SKIP,
            is_atomic=False,
        )

        assert instants(made) == {"e50": 9}
        assert codes(made) == [(0, "job_not_found")]


class TestWithoutAtomic:
    def test_an_unchanged_one_beside_errors_is_a_success(self):
        made = plan(change(9, END, 1), change(3, END, 6), is_atomic=False)

        assert made.is_success
        assert (made.unchanged, codes(made)) == ((1,), [(0, "job_not_found")])

    def test_errors_alone_are_refused_with_the_first_one_s_code(self):
        made = plan(change(3, END, FAR + 1), change(9, END, 1), is_atomic=False)

        assert made.code == "schedule_too_far"

    def test_conflicts_beside_errors_give_the_code(self):
        made = plan(change(9, END, 1), change(3, END, -1))

        assert made.code == "schedule_conflict"


class TestShift:
    def test_moves_the_successor_and_what_follows_it(self):
        made = plan(change(1, END, 3), on_conflict=SHIFT)

        assert instants(made) == {"e1": 3, "s2": 3, "e2": 5, "s3": 5, "e3": 7}
        assert {move.index for move in made.moves} == {0}
        assert types(made) == ["successor_before_predecessor"] * 2

    def test_moves_no_more_than_it_must(self):
        live = jobs(e1=2, s2=2, e2=4, s3=4.5, e3=6.5)

        made = plan(change(1, END, 2.25), live=live, on_conflict=SHIFT)

        assert instants(made) == {"e1": 2.25, "s2": 2.25, "e2": 4.25}

    def test_moves_nothing_where_nothing_conflicts(self):
        made = plan(change(1, END, 1), on_conflict=SHIFT)

        assert instants(made) == {"e1": 1}

    def test_keeps_the_durations_last_read(self):
        live = jobs(e1=2, s2=2, e2=9)

        made = plan(change(1, END, 3), live=live, on_conflict=SHIFT)

        assert instants(made)["e2"] == 5

    def test_keeps_that_of_the_jobs_where_none_was_read(self):
        relations = challenge(phase(1, 0, 2), phase(2, None, None, after=1))

        made = plan(
            change(1, END, 3),
            live=jobs(e1=2, s2=2, e2=6),
            relations=relations,
            on_conflict=SHIFT,
        )

        assert instants(made) == {"e1": 3, "s2": 3, "e2": 7}

    @pytest.mark.parametrize(("after", "end"), [((2, 4), 7), ((None, None), 5)])
    def test_moves_the_end_where_there_is_no_start(self, after, end):
        relations = challenge(phase(1, 0, 2), phase(2, *after, after=1))

        made = plan(
            change(1, END, 5),
            live=jobs(e1=2, e2=4),
            relations=relations,
            on_conflict=SHIFT,
        )

        assert instants(made) == {"e1": 5, "e2": end}

    def test_moves_a_successor_that_the_request_itself_puts_too_early(self):
        made = plan(change(1, END, 3), change(2, START, 2.5), on_conflict=SHIFT)

        assert instants(made) == {"e1": 3, "s2": 3, "e2": 5, "s3": 5, "e3": 7}
        assert [move.index for move in made.moves[:2]] == [0, 1]

    def test_counts_a_change_shifted_back_to_where_it_stands_as_unchanged(self):
        made = plan(change(2, START, 1.5), on_conflict=SHIFT)

        assert (made.moves, made.unchanged) == ((), (0,))

    @pytest.mark.parametrize(("asked", "end"), [(8, 8), (2.5, 5)])
    def test_leaves_an_end_where_it_was_asked_for_unless_it_is_too_early(self, asked, end):
        live = jobs(e1=2, s2=2, e2=4)

        made = plan(change(1, END, 3), change(2, END, asked), live=live, on_conflict=SHIFT)

        assert instants(made) == {"e1": 3, "s2": 3, "e2": end}

    def test_moves_all_phases_that_follow_one(self):
        relations = challenge(
            phase(1, 0, 2), phase(2, 2, 4, after=1), phase(3, 2, 3, after=1)
        )

        made = plan(
            change(1, END, 3),
            live=jobs(e1=2, s2=2, e2=4, s3=2, e3=3),
            relations=relations,
            on_conflict=SHIFT,
        )

        assert instants(made) == {"e1": 3, "s2": 3, "e2": 5, "s3": 3, "e3": 4}

    def test_finds_a_predecessor_by_its_template(self):
        relations = challenge(phase(1, 0, 2, template_id="77"), phase(2, 2, 4, after=77))

        made = plan(change(1, END, 3), relations=relations, on_conflict=SHIFT)

        assert instants(made)["s2"] == 3

    @pytest.mark.parametrize("running", ["s2", "e2"])
    def test_what_runs_can_t_be_shifted(self, running):
        live = {**CHAIN_JOBS, **jobs(running, **{running: {"s2": 2, "e2": 4}[running]})}

        made = plan(change(1, END, 3), live=live, on_conflict=SHIFT)

        assert types(made) == ["job_running"]
        assert made.conflicts[0].conflicts_with == f"job-{running}"
        assert (made.moves, made.code) == ((), "schedule_conflict")

    def test_without_atomic_leaves_out_what_can_t_be_shifted_for(self):
        live = {**CHAIN_JOBS, **jobs("s3", s3=4)}

        made = plan(change(1, END, 3), APART, live=live, on_conflict=SHIFT, is_atomic=False)

        assert instants(made) == {"e50": 9}

    def test_too_far_is_an_error_of_the_change_that_shifts(self):
        made = plan(APART, change(1, END, FAR - 1), on_conflict=SHIFT)

        assert set(codes(made)) == {(1, "schedule_too_far")}
        assert (made.moves, made.code) == ((), "schedule_too_far")

    def test_phases_that_follow_one_another_in_a_circle_are_refused(self):
        relations = challenge(phase(1, 0, 2, after=2), phase(2, 2, 4, after=1))

        made = plan(change(1, END, 3), relations=relations, on_conflict=SHIFT)

        assert set(types(made)) == {"successor_before_predecessor"}
        assert made.code == "schedule_conflict"


# --- Any schedule, any changes --------------------------------------------------------
@st.composite
def worlds(draw):
    """Any forest of up to six phases, with jobs for some of their ends."""
    phases, live = [], {}
    for number in range(1, draw(st.integers(1, 6)) + 1):
        after = draw(st.one_of(st.none(), st.integers(1, 6)))
        start = draw(st.integers(1, 20))
        lasts = draw(st.integers(0, 5))
        shown = draw(st.booleans())
        phases.append(
            phase(
                number,
                start if shown else None,
                start + lasts if shown else None,
                after=after,
            )
        )
        for name, at in ((f"s{number}", start), (f"e{number}", start + lasts)):
            if draw(st.booleans()):
                is_running = draw(st.integers(0, 9)) == 0
                live |= jobs(*([name] if is_running else []), **{name: at})
    return challenge(*phases), live


CHANGES = st.lists(
    st.builds(
        change,
        st.integers(1, 6),
        st.sampled_from([START, END]),
        st.integers(-2, 30),
        phase_type_name=st.sampled_from([None, "Review"]),
    ),
    max_size=5,
)


def carried_out(live, made):
    """Return the live jobs once a plan was carried out."""
    new = {
        move.identity: LiveJob(job_id=f"new-{move.identity}", due_at=move.due_at)
        for move in made.moves
    }
    return {**live, **new}


ANY = given(
    world=worlds(),
    changes=CHANGES,
    on_conflict=st.sampled_from(OnConflict),
    is_atomic=st.booleans(),
)


class TestAnySchedule:
    @ANY
    def test_planning_twice_leaves_nothing_to_do(
        self, world, changes, on_conflict, is_atomic
    ):
        relations, live = world
        how = {
            "relations": relations,
            "on_conflict": on_conflict,
            "is_atomic": is_atomic,
        }
        first = plan(*changes, live=live, **how)
        asked = {changes[index].identity for index in first.unchanged} | {
            move.identity for move in first.moves
        }

        again = plan(
            *[one for one in changes if one.identity in asked],
            live=carried_out(live, first),
            **how,
        )

        assert again.moves == ()

    @ANY
    def test_a_plan_makes_no_new_conflict(self, world, changes, on_conflict, is_atomic):
        relations, live = world

        made = plan(
            *changes,
            live=live,
            relations=relations,
            on_conflict=on_conflict,
            is_atomic=is_atomic,
        )

        after = carried_out(live, made)
        moved = {move.identity for move in made.moves}
        for key in {identity[:2] for identity in moved}:
            start, end = after.get((*key, START)), after.get((*key, END))
            if start and end:
                assert start.due_at <= end.due_at
            before = relations.before(key)
            first = (*key, START) if start else (*key, END)
            previous = after.get((*before, END)) if before else None
            touched = first in moved or (before and (*before, END) in moved)
            if previous and after.get(first) and touched:
                assert previous.due_at <= after[first].due_at

    @ANY
    def test_does_each_thing_once_and_to_scheduled_jobs_only(
        self, world, changes, on_conflict, is_atomic
    ):
        relations, live = world

        made = plan(
            *changes,
            live=live,
            relations=relations,
            on_conflict=on_conflict,
            is_atomic=is_atomic,
        )

        assert len({move.identity for move in made.moves}) == len(made.moves)
        for move in made.moves:
            assert live.get(move.identity) == move.job
            assert move.job is None or not move.job.is_running
            assert window(move.due_at) is None
        asked = {one.identity for one in changes}
        if on_conflict is not SHIFT:
            assert {move.identity for move in made.moves} <= asked
        if is_atomic and (made.errors or (made.conflicts and on_conflict is REJECT)):
            assert made.moves == ()
            assert not made.is_success

    @given(
        lengths=st.lists(st.integers(1, 6), min_size=2, max_size=8),
        by=st.integers(1, 50),
        at=st.integers(0, 6),
    )
    def test_a_shift_keeps_every_duration(self, lengths, by, at):
        phases, live, begins = [], {}, 1
        for number, lasts in enumerate(lengths, start=1):
            after = number - 1 or None
            phases.append(phase(number, begins, begins + lasts, after=after))
            live |= jobs(**{f"s{number}": begins, f"e{number}": begins + lasts})
            begins += lasts
        moved = min(at, len(lengths) - 1) + 1
        end = live[PROJECT, str(moved), END]
        later = (end.due_at - NOW) / timedelta(hours=1) + by

        made = plan(
            change(moved, END, later),
            live=live,
            relations=challenge(*phases),
            on_conflict=SHIFT,
        )

        after = carried_out(live, made)
        for number, lasts in enumerate(lengths, start=1):
            start = after[PROJECT, str(number), START].due_at
            ends = after[PROJECT, str(number), END].due_at
            longer = by if number == moved else 0
            assert ends - start == timedelta(hours=lasts + longer)
            assert (start > live[PROJECT, str(number), START].due_at) == (number > moved)
