from datetime import UTC, datetime

import pytest

from scheduling.domain.adjustment_request import MOST_CHANGES, read_adjustment
from scheduling.domain.changes import OnConflict, ScheduleChange
from scheduling.domain.errors import InvalidRequestError, InvalidScheduleTimeError
from scheduling.domain.lifecycle import TransitionKind

CHANGE = {"projectId": 1, "phaseId": 2, "newEndTime": "2030-03-07T17:00:00.123+02:00"}
UUID = "3F2504E0-4F89-41D3-9A0C-0305E82C3301"


def body(*changes, **fields):
    return {"changes": list(changes), "updateReason": "because", **fields}


def errors_of(given, *, kind=InvalidRequestError):
    with pytest.raises(kind) as refusal:
        read_adjustment(given)
    assert type(refusal.value) is kind
    return [field for field, _ in refusal.value.values["errors"]]


class TestReadAdjustment:
    def test_understands_the_least(self):
        request = read_adjustment(body(CHANGE))

        assert request.changes == (
            ScheduleChange(
                project_id="1",
                phase_id="2",
                kind=TransitionKind.END,
                new_due_at=datetime(2030, 3, 7, 15, 0, 0, 123_000, tzinfo=UTC),
            ),
        )
        assert request.reason == "because"
        assert request.on_conflict is OnConflict.REJECT
        assert request.is_atomic
        assert not request.is_dry_run
        assert (request.operator, request.batch_id) == (None, None)

    def test_understands_all_there_is(self):
        given = body(
            CHANGE
            | {
                "phaseId": UUID,
                "state": "START",
                "phaseTypeName": "Review",
                "changeReason": "so",
            },
            operator="admin",
            batchId="b-1",
            dryRun=True,
            onConflict="shift",
            atomic=False,
        )

        request = read_adjustment(given)

        (change,) = request.changes
        assert change.identity == ("1", UUID.lower(), TransitionKind.START)
        assert (change.phase_type_name, change.reason) == ("Review", "so")
        assert (request.operator, request.batch_id) == ("admin", "b-1")
        assert request.on_conflict is OnConflict.SHIFT
        assert request.is_dry_run
        assert not request.is_atomic

    def test_takes_null_for_what_is_left_out(self):
        names = ("operator", "batchId", "dryRun", "onConflict", "atomic")
        change = CHANGE | dict.fromkeys(["state", "phaseTypeName", "changeReason"])

        given = body(change, **dict.fromkeys(names))

        assert read_adjustment(given) == read_adjustment(body(CHANGE))

    def test_takes_changes_that_a_program_has_made(self):
        (made,) = read_adjustment(body(CHANGE)).changes

        assert read_adjustment(body(made)).changes == (made,)

    def test_judges_what_a_program_has_made_as_well(self):
        (made,) = read_adjustment(body(CHANGE)).changes
        wrong = ScheduleChange(**{**vars(made), "new_due_at": datetime(2030, 1, 1)})  # noqa: DTZ001 -- the point

        assert errors_of(body(wrong), kind=InvalidScheduleTimeError) == [
            "changes[0].newEndTime"
        ]

    @pytest.mark.parametrize(
        ("given", "fields"),
        [
            ({}, ["changes", "updateReason"]),
            (body(CHANGE, updateReason=" "), ["updateReason"]),
            (body(CHANGE, updateReason="x" * 2_001), ["updateReason"]),
            (body(CHANGE, changes={}), ["changes"]),
            (body(CHANGE, changes="ab"), ["changes"]),
            (body(CHANGE, dryRun="true"), ["dryRun"]),
            (body(CHANGE, atomic=1), ["atomic"]),
            (body(CHANGE, onConflict="SHIFT"), ["onConflict"]),
            (body(CHANGE, onConflict=["shift"]), ["onConflict"]),
            (body(CHANGE, batchId=""), ["batchId"]),
            (body(CHANGE, batchId=7), ["batchId"]),
            (body(CHANGE, reason="x"), ["reason"]),
            (body(CHANGE, "x", None), ["changes[1]", "changes[2]"]),
            (
                body(CHANGE, {"projectId": "1", "state": "MIDDLE", "jobId": "j"}),
                [
                    "changes[1].jobId",
                    "changes[1].projectId",
                    "changes[1].phaseId",
                    "changes[1].state",
                    "changes[1].newEndTime",
                ],
            ),
            (
                body(CHANGE | {"oldEndTime": CHANGE["newEndTime"]}),
                ["changes[0].oldEndTime"],
            ),
            (body({"projectId": 1, "phaseId": 2}), ["changes[0].newEndTime"]),
        ],
    )
    def test_names_what_is_wrong(self, given, fields):
        assert errors_of(given) == fields

    @pytest.mark.parametrize(
        "instant", ["2030-03-07T17:00:00", "2030-03-07", "2030-06-31T00:00:00Z", 1, "soon"]
    )
    def test_tells_instants_that_can_t_be_read_from_the_rest(self, instant):
        wrong = body(CHANGE, CHANGE | {"newEndTime": instant})

        fields = errors_of(wrong, kind=InvalidScheduleTimeError)

        assert fields == ["changes[1].newEndTime"]
        assert errors_of({**wrong, "dryRun": 1})[-1] == "dryRun"

    def test_takes_a_thousand_and_no_more(self):
        most = [CHANGE] * MOST_CHANGES

        assert len(read_adjustment(body(*most)).changes) == 1_000
        assert errors_of(body(*most, CHANGE)) == ["changes"]
