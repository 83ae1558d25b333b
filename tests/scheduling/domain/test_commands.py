import pytest

from scheduling.domain.commands import (
    Command,
    CommandName,
    CommandResult,
    find_command,
    is_allowed_operator,
)


class TestFindCommand:
    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ("schedule_phase_transition", CommandName.SCHEDULE),
            ("SCHEDULE_PHASE_TRANSITION", CommandName.SCHEDULE),
            ("reschedule_phase", CommandName.RESCHEDULE),
            ("Reschedule_Phase", CommandName.RESCHEDULE),
            ("update_scheduled_transition", CommandName.RESCHEDULE),
            ("Update_Scheduled_TRANSITION", CommandName.RESCHEDULE),
            ("cancel_schedule", CommandName.CANCEL),
            ("cancel_scheduled_transition", CommandName.CANCEL),
            ("CANCEL_scheduled_transition", CommandName.CANCEL),
            ("list_scheduled_transitions", CommandName.LIST),
            ("List_Scheduled_Transitions", CommandName.LIST),
            ("recover", CommandName.RECOVER),
            ("ReCoVeR", CommandName.RECOVER),
        ],
    )
    def test_knows_every_name_in_any_case(self, given, name):
        assert find_command(given) is name

    @pytest.mark.parametrize(
        "given",
        ["", " recover", "recover ", "cancel", "cancel-schedule", "recover\n"],
    )
    def test_guesses_nothing(self, given):
        assert find_command(given) is None


class TestCommandKey:
    @pytest.mark.parametrize(
        ("fields", "key"),
        [
            ({"project_id": "1", "challenge_id": "2", "correlation_id": "3"}, "2"),
            ({"project_id": "1", "correlation_id": "3"}, "1"),
            ({"correlation_id": "3"}, "3"),
            ({}, ""),
        ],
    )
    def test_is_what_the_command_is_about(self, fields, key):
        command = Command(name=CommandName.LIST, given_name="list", **fields)

        assert command.key == key


class TestCommandResult:
    @pytest.mark.parametrize(("code", "is_success"), [("", True), ("not_found", False)])
    def test_is_a_success_without_a_code(self, code, is_success):
        result = CommandResult(command="c", correlation_id="", message="m", code=code)

        assert result.is_success is is_success


class TestIsAllowedOperator:
    @pytest.mark.parametrize(
        ("operator", "patterns"),
        [
            ("admin", ["admin"]),
            ("system-sync", ["admin", "system-*"]),
            ("system-", ["system-*"]),
            ("a\nb", ["a*b"]),
            ("anybody", ["*"]),
            ("team[1]", ["team[1]"]),
            ("who?", ["who?"]),
            ("a-x-b-y-c", ["a*b*c"]),
        ],
    )
    def test_lets_in_whom_a_pattern_names(self, operator, patterns):
        assert is_allowed_operator(operator, patterns)

    @pytest.mark.parametrize(
        ("operator", "patterns"),
        [
            ("admin", []),
            ("Admin", ["admin"]),
            ("admin", ["ADMIN"]),
            ("admin ", ["admin"]),
            ("admin\n", ["admin"]),
            ("administrator", ["admin"]),
            ("my-system-x", ["system-*"]),
            ("system", ["system-*"]),
            # Only the star is special: these name nobody else.
            ("team1", ["team[1]"]),
            ("whom", ["who?"]),
            ("xadmin", ["[!a]admin"]),
        ],
    )
    def test_lets_in_nobody_else(self, operator, patterns):
        assert not is_allowed_operator(operator, patterns)

    @pytest.mark.timeout(5)
    def test_judges_a_hostile_name_soon(self):
        assert not is_allowed_operator("a" * 255, ["*a" * 8 + "*b"])
