import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.domain.lifecycle import (
    ALLOWED_CHANGES,
    FINAL,
    LIVE,
    TransitionStatus,
    is_terminal_challenge_status,
    may_change,
)

S = TransitionStatus
# What contract.md, section 2, and the verbs of section 4 let happen.
EXPECTED = {
    (S.SCHEDULED, S.RUNNING),
    (S.SCHEDULED, S.CANCELLED),
    (S.SCHEDULED, S.EXPIRED),
    (S.SCHEDULED, S.COMPLETED),
    (S.RUNNING, S.COMPLETED),
    (S.RUNNING, S.SCHEDULED),
    (S.RUNNING, S.FAILED),
    (S.FAILED, S.CANCELLED),
    (S.FAILED, S.COMPLETED),
    (S.EXPIRED, S.SCHEDULED),
    (S.EXPIRED, S.CANCELLED),
}


class TestMayChange:
    @pytest.mark.parametrize("old", S)
    @pytest.mark.parametrize("new", S)
    def test_allows_exactly_what_the_table_of_the_contract_lists(self, old, new):
        assert may_change(old, new) is ((old, new) in EXPECTED)

    def test_every_status_has_a_row(self):
        assert set(ALLOWED_CHANGES) == set(S)

    def test_live_and_final_part_all_statuses(self):
        assert set(S) == LIVE | FINAL
        assert not LIVE & FINAL

    @given(st.lists(st.sampled_from(S), max_size=12))
    def test_nothing_leaves_completed_or_cancelled(self, wishes):
        status, seen = S.SCHEDULED, [S.SCHEDULED]
        for wish in wishes:
            if may_change(status, wish):
                status = wish
                seen.append(status)

        ends = [one for one in seen[:-1] if one in {S.COMPLETED, S.CANCELLED}]
        assert not ends


class TestIsTerminalChallengeStatus:
    @pytest.mark.parametrize(
        "status",
        [
            "COMPLETED",
            "DELETED",
            "CANCELLED",
            "CANCELLED_FAILED_REVIEW",
            "CANCELLED_ZERO_SUBMISSIONS",
            "CANCELLED_",
        ],
    )
    def test_is_true_when_the_challenge_is_over(self, status):
        assert is_terminal_challenge_status(status)

    @pytest.mark.parametrize(
        "status", ["ACTIVE", "DRAFT", "NEW", "APPROVED", "", "CANCELLEDX", "COMPLETED_"]
    )
    def test_is_false_for_every_other_status(self, status):
        assert not is_terminal_challenge_status(status)
