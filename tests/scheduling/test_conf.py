from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured

from autopilot_site.env import read
from scheduling.conf import (
    MessageSettings,
    RecoverySettings,
    SchedulerSettings,
    age_limit,
    message_settings,
    scheduler_settings,
    used_topics,
)
from scheduling.topics import ALL_TOPICS, COMMAND, COMMAND_RESULT

# Variable, default, least and greatest value (contract, section 10).
NUMBERS = [
    ("SCHEDULER_JOB_TIMEOUT", 60_000, 1_000, 3_600_000),
    ("SCHEDULER_MAX_RETRIES", 3, 0, 100),
    ("SCHEDULER_RETRY_DELAY", 5_000, 100, 3_600_000),
    ("SCHEDULER_MAX_CONCURRENT_JOBS", 50, 1, 10_000),
    ("SCHEDULER_CLEANUP_INTERVAL", 300_000, 1_000, 315_360_000_000),
    ("SCHEDULER_MAX_COMPLETED_JOB_AGE", 3_600_000, 1_000, 315_360_000_000),
    ("SCHEDULER_MAX_FAILED_JOB_AGE", 86_400_000, 1_000, 315_360_000_000),
    ("SCHEDULER_MIN_SCHEDULE_ADVANCE", 1_000, 0, 315_360_000_000),
    ("SCHEDULER_MAX_SCHEDULE_ADVANCE", 7_776_000_000, 1_000, 315_360_000_000),
    ("RECOVERY_MAX_PHASE_AGE_HOURS", 72, 1, 87_600),
    ("RECOVERY_CHALLENGE_SERVICE_TIMEOUT", 15_000, 1_000, 3_600_000),
    ("RECOVERY_CHALLENGE_SERVICE_RETRIES", 3, 0, 100),
]
FLAGS = [
    ("SCHEDULER_ALLOW_PAST_SCHEDULING", False),
    ("SCHEDULER_ENABLE_DEBUG_LOGGING", False),
    ("SCHEDULER_LOG_JOB_DETAILS", True),
    ("RECOVERY_CHALLENGE_SERVICE_MOCK_MODE", False),
]


def attribute(name):
    return name.partition("_")[2].lower()


def read_for(name):
    kind = SchedulerSettings if name.startswith("SCHEDULER_") else RecoverySettings
    return getattr(read(kind), attribute(name))


class TestNumbers:
    @pytest.mark.parametrize(("name", "default", "least", "greatest"), NUMBERS)
    def test_are_read_from_the_environment(
        self, monkeypatch, name, default, least, greatest
    ):
        monkeypatch.delenv(name, raising=False)
        assert read_for(name) == default
        # The window's end may not come before its beginning.
        monkeypatch.setenv("SCHEDULER_MAX_SCHEDULE_ADVANCE", "315360000000")
        monkeypatch.setenv("SCHEDULER_MIN_SCHEDULE_ADVANCE", "0")
        for value in (least, greatest):
            monkeypatch.setenv(name, str(value))
            assert read_for(name) == value

    def test_of_the_window_leave_one(self, monkeypatch):
        monkeypatch.setenv("SCHEDULER_MIN_SCHEDULE_ADVANCE", "1001")
        monkeypatch.setenv("SCHEDULER_MAX_SCHEDULE_ADVANCE", "1000")

        with pytest.raises(ImproperlyConfigured) as caught:
            read(SchedulerSettings)

        assert "SCHEDULER_MAX_SCHEDULE_ADVANCE='1000'" in str(caught.value)
        assert "SCHEDULER_MIN_SCHEDULE_ADVANCE, 1001" in str(caught.value)

    @pytest.mark.parametrize(("name", "default", "least", "greatest"), NUMBERS)
    def test_outside_their_range_stop_the_start(
        self, monkeypatch, name, default, least, greatest
    ):
        for value, allowed in (
            (least - 1, f"greater than or equal to {least}"),
            (greatest + 1, f"less than or equal to {greatest}"),
        ):
            monkeypatch.setenv(name, str(value))
            with pytest.raises(ImproperlyConfigured) as caught:
                read_for(name)
            assert f"{name}='{value}'" in str(caught.value)
            assert allowed in str(caught.value)

    @pytest.mark.parametrize("name", [name for name, *_ in NUMBERS])
    @pytest.mark.parametrize("value", ["", "abc", "5s", "1.5", "1e3", "NaN", "9" * 400])
    def test_that_are_none_stop_the_start(self, monkeypatch, name, value):
        monkeypatch.setenv(name, value)

        with pytest.raises(ImproperlyConfigured) as caught:
            read_for(name)

        assert f"{name}='{value}'" in str(caught.value)


class TestFlags:
    @pytest.mark.parametrize(("name", "default"), FLAGS)
    def test_are_read_from_the_environment(self, monkeypatch, name, default):
        monkeypatch.delenv(name, raising=False)
        assert read_for(name) is default
        for text, value in (("true", True), ("false", False), ("1", True), ("0", False)):
            monkeypatch.setenv(name, text)
            assert read_for(name) is value

    @pytest.mark.parametrize("name", [name for name, _ in FLAGS])
    @pytest.mark.parametrize("value", ["", "maybe", "2"])
    def test_that_are_none_stop_the_start(self, monkeypatch, name, value):
        monkeypatch.setenv(name, value)

        with pytest.raises(ImproperlyConfigured) as caught:
            read_for(name)

        assert f"{name}='{value}'" in str(caught.value)
        assert "boolean" in str(caught.value)


class TestSchedulerSettings:
    def test_every_variable_is_tried_here(self):
        ours = {f"SCHEDULER_{name.upper()}" for name in SchedulerSettings.model_fields}

        tried = {name for name, *_ in NUMBERS} | {name for name, _ in FLAGS}
        assert ours == {name for name in tried if name.startswith("SCHEDULER_")}

    def test_every_variable_explains_itself(self):
        assert all(field.description for field in SchedulerSettings.model_fields.values())

    def test_names_every_bad_variable_at_once(self, monkeypatch):
        monkeypatch.setenv("SCHEDULER_MAX_RETRIES", "-1")
        monkeypatch.setenv("SCHEDULER_JOB_TIMEOUT", "soon")

        with pytest.raises(ImproperlyConfigured) as caught:
            read(SchedulerSettings)

        assert "SCHEDULER_MAX_RETRIES='-1'" in str(caught.value)
        assert "SCHEDULER_JOB_TIMEOUT='soon'" in str(caught.value)

    def test_attempts_are_one_and_the_retries(self):
        assert SchedulerSettings(max_retries=0).max_attempts == 1
        assert SchedulerSettings().max_attempts == 4

    def test_milliseconds_become_durations(self):
        conf = SchedulerSettings(retry_delay=250)

        assert conf.period("retry_delay") == timedelta(milliseconds=250)
        assert conf.retry_policy.wait(1, chance=1.0) == timedelta(milliseconds=250)


class TestInForce:
    def test_is_what_the_settings_hold(self, settings):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(update={"max_retries": 9})
        settings.RECOVERY = settings.RECOVERY.model_copy(update={"max_phase_age_hours": 1})

        assert scheduler_settings().max_retries == 9
        assert age_limit() == timedelta(hours=1)


class TestMessageSettings:
    def test_have_defaults_that_let_in_few_and_plug_in_nothing(self, monkeypatch):
        for name in MessageSettings.model_fields:
            monkeypatch.delenv(f"AUTOPILOT_{name.upper()}", raising=False)

        conf = read(MessageSettings)

        assert conf.command_operators == ("admin", "system", "system-*")
        assert conf.event_handlers == {}
        assert conf.event_publisher.endswith(".event_publisher.EventPublisher")

    def test_explain_themselves(self):
        assert all(field.description for field in MessageSettings.model_fields.values())

    @pytest.mark.parametrize(
        ("text", "operators"),
        [
            ("admin", ("admin",)),
            (" admin , ops-* ,,", ("admin", "ops-*")),
            ("", ()),
            ("*", ("*",)),
            ("Ädmin", ("Ädmin",)),
        ],
    )
    def test_read_operators_by_commas(self, monkeypatch, text, operators):
        monkeypatch.setenv("AUTOPILOT_COMMAND_OPERATORS", text)

        assert read(MessageSettings).command_operators == operators

    @pytest.mark.parametrize(
        ("text", "handlers"),
        [
            ("", {}),
            (" , ", {}),
            ("a=b.c", {"a": "b.c"}),
            (" a.b = c.d , e-f_g=h.i.j ", {"a.b": "c.d", "e-f_g": "h.i.j"}),
            (f"{COMMAND}=a.b", {COMMAND: "a.b"}),
            ("x" * 245 + "=a.b", {"x" * 245: "a.b"}),
        ],
    )
    def test_read_handlers_as_pairs(self, monkeypatch, text, handlers):
        monkeypatch.setenv("AUTOPILOT_EVENT_HANDLERS", text)

        assert read(MessageSettings).event_handlers == handlers

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("a", "'a' is not TOPIC=package.module.function"),
            ("a=", "is not TOPIC=package.module.function"),
            ("=b.c", "is not TOPIC=package.module.function"),
            ("a=b", "is not TOPIC=package.module.function"),
            ("a=b.c,a=d.e", "names 'a' twice"),
            ("a b=c.d", "'a b' is no name of a topic"),
            ("ä=c.d", "is no name of a topic"),
            ("..=c.d", "is no name of a topic"),
            ("x" * 246 + "=c.d", "is no name of a topic"),
        ],
    )
    def test_that_are_wrong_stop_the_start(self, monkeypatch, text, says):
        monkeypatch.setenv("AUTOPILOT_EVENT_HANDLERS", text)

        with pytest.raises(ImproperlyConfigured) as caught:
            read(MessageSettings)

        assert "AUTOPILOT_EVENT_HANDLERS=" in str(caught.value)
        assert says in str(caught.value)

    def test_name_a_publisher(self, monkeypatch):
        monkeypatch.setenv("AUTOPILOT_EVENT_PUBLISHER", "my.Publisher")
        assert read(MessageSettings).event_publisher == "my.Publisher"

        monkeypatch.setenv("AUTOPILOT_EVENT_PUBLISHER", "")
        with pytest.raises(ImproperlyConfigured, match="AUTOPILOT_EVENT_PUBLISHER"):
            read(MessageSettings)


class TestUsedTopics:
    @pytest.mark.parametrize(
        ("handlers", "more"),
        [
            ({}, ()),
            ({COMMAND: "a.b"}, ()),
            ({"billing": "a.b"}, ("billing", "billing.dlq")),
            ({COMMAND_RESULT: "a.b"}, (f"{COMMAND_RESULT}.dlq",)),
            ({"x": "a.b", "x.dlq": "a.b"}, ("x", "x.dlq", "x.dlq.dlq")),
        ],
    )
    def test_are_ours_and_those_of_handlers_of_ones_own(self, settings, handlers, more):
        settings.MESSAGES = settings.MESSAGES.model_copy(
            update={"event_handlers": handlers}
        )

        assert message_settings().event_handlers == handlers
        assert used_topics() == (*ALL_TOPICS, *more)
