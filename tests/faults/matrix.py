"""Which fault is shown by which test: 35 faults, what must hold under each, and the tests.

Every test named here causes its fault for real (processes are killed and paused, servers
stopped, connections cut, disks filled) and checks what `holds` says. Under each fault, too:
no event lost, early, under two ids or of a cancelled job, and every change in the audit.

A fault without a test, or of which the tests show a part only, says in `not_shown` what is
missing and why. `make chaos` mixes F2, F3, F5 to F7, F9, F15 and F28 for as long as one
likes, and judges from outside.
"""

from dataclasses import dataclass

KILLS = "tests/faults/test_kills.py::"
OUTAGES = "tests/faults/test_outages.py::"
DATABASE = "tests/faults/test_database_trouble.py::"
CONSUMER = "tests/faults/test_consumer_faults.py::"
CONSUME = "tests/scheduling/consumers/test_consume_events.py::"
RUNS = "tests/faults/test_recovery_runs.py::"
PUBLISH = "tests/scheduling/services/test_publish.py::"
SEALS = "tests/scheduling/services/test_seals.py::"
PHASES = "tests/scheduling/domain/test_phases.py::"
SERVICE = "tests/scheduling/adapters/test_challenge_service.py::"
EXECUTE = "tests/recovery/services/test_execute.py::"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault.

    tests: file::class::test of each that shows it.
    not_shown: why it has no test, or what they leave out.
    """

    number: int
    what: str
    holds: str
    tests: tuple[str, ...] = ()
    not_shown: str = ""


FAULTS = (
    Fault(
        number=1,
        what="none: a calm run",
        holds="lateness p50 below 250 ms, max below 2 s, each record once",
        tests=(
            "tests/faults/test_cluster.py::TestRunningCluster::"
            "test_fires_each_job_at_its_instant_and_never_before",
        ),
    ),
    Fault(
        number=2,
        what="kill -9 of a process of one cluster at work",
        holds="taken over within 3 s, at most one record repeated",
        tests=(
            f"{KILLS}TestKilledProcess::"
            "test_of_the_cluster_is_replaced_and_the_work_goes_on",
            f"{RUNS}TestCaretaker::"
            "test_is_started_again_when_it_is_killed_and_firing_goes_on",
        ),
    ),
    Fault(
        number=3,
        what="kill -9 of everything, and a start later on",
        holds="what became overdue is fired in due order within 20 s of the start",
        tests=(
            f"{KILLS}TestKilledProcess::"
            "test_whole_tree_at_once_leaves_the_work_to_the_next_start",
            f"{RUNS}TestOverdueAtStart::test_fires_in_due_order_and_is_acknowledged",
        ),
    ),
    Fault(
        number=4,
        what="kill at each step: before and after claim, produce, answer, mark, commit",
        holds="the next one goes on, and nothing is repeated: the topic is searched first",
        tests=(
            "tests/faults/test_crash_points.py::TestWorker::"
            "test_may_die_between_any_two_steps",
            f"{KILLS}TestWorkerKilledBetweenSendingAndHearing::"
            "test_has_its_record_found_on_the_topic_instead_of_sent_again",
            f"{CONSUMER}TestKilledConsumer::test_may_die_between_any_two_steps",
        ),
    ),
    Fault(
        number=5,
        what="kill -9 of each of django-q2's roles, idle and busy",
        holds="no orphan, no hang; the cluster is whole again, and its tasks acknowledged",
        tests=(
            f"{KILLS}TestKilledProcess::test_that_idled_is_replaced_too",
            f"{KILLS}TestKilledProcess::"
            "test_of_the_cluster_is_replaced_and_the_work_goes_on",
            f"{KILLS}TestKilledProcess::"
            "test_command_takes_all_with_it_and_the_next_start_goes_on",
            "tests/faults/test_cluster.py::TestOtherTasks::test_are_run_and_acknowledged",
        ),
    ),
    Fault(
        number=6,
        what="SIGTERM once, twice, to the whole group; idle and busy",
        holds="ends with 0 within 15 s, nothing stays claimed",
        tests=(
            f"{KILLS}TestStop::test_ends_all_in_time_and_leaves_nothing_claimed",
            f"{KILLS}TestStop::test_while_idle_is_quick_also_when_asked_for_twice",
            f"{OUTAGES}TestKafkaDown::test_does_not_hold_up_a_stop",
            "tests/autopilot_site/test_up.py::TestUp::"
            "test_ends_all_on_one_sigint_to_the_group",
        ),
    ),
    Fault(
        number=7,
        what="pause of whoever holds jobs for longer than the lease",
        holds="others publish; the one that wakes changes nothing",
        tests=(
            f"{KILLS}TestPausedWorker::test_changes_nothing_when_it_wakes_after_its_lease",
        ),
    ),
    Fault(
        number=8,
        what="pause inside a transaction",
        holds="PostgreSQL: other rows go on, the paused session ends and commits nothing",
        tests=(
            f"{DATABASE}TestPausedInATransaction::"
            "test_holds_up_its_own_rows_until_the_server_ends_it",
        ),
        not_shown="On SQLite one writer holds up all others while it pauses: see 13.",
    ),
    Fault(
        number=9,
        what="PostgreSQL restarted as after a crash",
        holds="all goes on within 15 s of its return, nothing half done",
        tests=(
            f"{OUTAGES}TestPostgresRestarted::test_under_way_is_survived_by_every_process",
            f"{CONSUMER}TestDatabaseDown::test_for_some_seconds_loses_nothing",
            "tests/recovery/services/test_runs.py::TestDatabaseOutage::"
            "test_in_the_middle_is_waited_out",
        ),
    ),
    Fault(
        number=10,
        what="the database is away when a process starts",
        holds="the process ends at once with the cause; its supervisor starts it again",
        tests=(
            f"{DATABASE}TestAwayAtTheStart::test_ends_a_cluster_at_once_with_the_cause",
            f"{CONSUME}TestConsumeEventsWithoutNeighbours::"
            "test_refuses_to_start_without_a_database",
        ),
    ),
    Fault(
        number=11,
        what="sessions cut one by one",
        holds="no job lost or repeated, all fired within 15 s of the last cut",
        tests=(f"{DATABASE}TestCutSessions::test_cost_a_running_cluster_no_job",),
    ),
    Fault(
        number=12,
        what="deadlocks, and locks that are not to be had",
        holds="told as 503 with Retry-After, or tried again; nothing half done",
        tests=(
            "tests/scheduling/api/test_database_trouble.py::TestDeadlock::"
            "test_of_a_batch_leaves_nothing_half_done",
            "tests/scheduling/services/test_schedule.py::TestScheduleInRaces::"
            "test_bulks_in_opposite_orders_do_not_block_one_another",
            f"{CONSUMER}TestLockedTable::test_keeps_records_waiting_and_sets_none_aside",
        ),
    ),
    Fault(
        number=13,
        what="SQLite's file is locked by another program",
        holds="nothing fires meanwhile, and all within 5 s after it",
        tests=(
            f"{DATABASE}TestLockedFile::test_lets_jobs_wait_for_as_long_as_it_is_locked",
        ),
    ),
    Fault(
        number=14,
        what="the disk is full",
        holds="writes are refused whole, the file stays whole, all goes on with room",
        tests=(
            f"{DATABASE}TestFullDisk::"
            "test_lets_what_is_due_wait_and_fire_once_there_is_room",
            "tests/scheduling/api/test_database_trouble.py::TestFullDisk::"
            "test_refuses_what_can_not_be_kept_whole",
            "tests/autopilot_site/health/test_judgement.py::TestDisk::test_a_full_one_is_told",
        ),
        not_shown="PostgreSQL's own disk: it restarts as after a crash, which is 9.",
    ),
    Fault(
        number=15,
        what="the broker is away",
        holds="no attempt is used up; all fires within 5 s of its return, in order per key",
        tests=(
            f"{OUTAGES}TestKafkaDown::"
            "test_for_ten_seconds_lets_all_wait_and_then_fire_in_order",
            f"{OUTAGES}TestKafkaDown::test_at_the_start_is_waited_out",
            f"{OUTAGES}TestRealKafka::test_killed_and_started_again_has_all_that_was_due",
            f"{CONSUMER}TestKafkaDown::test_for_some_seconds_loses_no_record_and_no_answer",
        ),
    ),
    Fault(
        number=16,
        what="the broker is slow, or takes requests and answers nothing",
        holds="the attempt ends at its timeout and is not followed by a second record",
        tests=(
            f"{PUBLISH}TestJobTimeout::test_ends_the_attempt_and_counts_it",
            f"{PUBLISH}TestJobTimeout::test_is_not_followed_by_a_second_record",
            f"{OUTAGES}TestKafkaDown::test_that_loses_acknowledgements_repeats_no_record",
        ),
    ),
    Fault(
        number=17,
        what="the acknowledgement is lost after the record was written",
        holds="one event id; what a client repeats within one life stands under it",
        tests=(
            f"{OUTAGES}TestKafkaDown::test_that_loses_acknowledgements_repeats_no_record",
            f"{CONSUMER}TestKafkaDown::"
            "test_when_answers_are_acknowledged_but_nobody_hears_it_repeats_no_event",
            f"{PUBLISH}TestUnprovenAttempt::"
            "test_that_is_on_the_topic_is_completed_when_it_is_found",
        ),
    ),
    Fault(
        number=18,
        what="the broker refuses: record too large, invalid, topic missing",
        holds="failed after its attempts and told; other keys and topics go on",
        tests=(
            f"{PUBLISH}TestRefusedRecord::"
            "test_is_tried_again_after_the_delay_and_fails_for_good_at_last",
            f"{PUBLISH}TestRefusedRecord::test_that_is_too_large_holds_up_only_its_key",
            f"{CONSUMER}TestOwnNode::"
            "test_whose_dead_letter_topics_are_missing_keeps_them_until_they_are_there",
            f"{CONSUMER}TestOwnNode::"
            "test_with_large_records_keeps_their_bytes_and_says_what_was_cut",
        ),
        not_shown="A wrong SASL password: no broker is in reach then, as in 15.",
    ),
    Fault(
        number=19,
        what="poison records: garbage, wrong shapes, bad UTF-8, deep JSON, megabytes",
        holds="a dead letter with the exact bytes for each; the stream goes on",
        tests=(
            "tests/scheduling/consumers/test_message_cases.py::TestAnyRecords::"
            "test_are_handled_or_set_aside_whole_by_the_real_loop",
            "tests/scheduling/services/test_any_record.py::TestHandleRecords::"
            "test_handles_any_record_or_sets_it_aside",
            "tests/scheduling/services/test_any_record.py::TestHandleRecords::"
            "test_sets_hostile_json_aside",
            f"{CONSUME}TestConsumeEvents::test_sets_garbage_between_valid_records_aside",
        ),
    ),
    Fault(
        number=20,
        what="records that come twice, or out of order",
        holds="the second changes nothing, the older one loses",
        tests=(
            "tests/scheduling/services/test_incoming.py::TestHandleRecords::"
            "test_does_nothing_twice",
            f"{CONSUME}TestConsumeEvents::test_handles_the_same_event_once",
            "tests/scheduling/services/test_apply_challenge.py::TestApplyStale::"
            "test_changes_nothing",
            f"{CONSUME}TestConsumeEventsInOutages::"
            "test_reads_all_of_a_broker_that_took_the_place_of_another",
        ),
    ),
    Fault(
        number=21,
        what="consumers come and go",
        holds="each record has its effect once; a named one has its place back at once",
        tests=(
            f"{CONSUMER}TestNamedConsumer::"
            "test_has_its_partitions_back_at_once_after_it_was_killed",
            f"{CONSUMER}TestNamedConsumer::"
            "test_ends_with_the_cause_where_another_one_takes_its_name",
            f"{CONSUMER}TestTwoConsumers::"
            "test_share_the_work_and_one_takes_over_when_the_other_is_killed",
            f"{CONSUMER}TestTwoConsumers::"
            "test_give_back_nothing_half_done_when_a_third_comes_and_one_leaves",
            f"{CONSUMER}TestKilledConsumer::"
            "test_has_each_effect_once_however_often_it_is_killed",
        ),
    ),
    Fault(
        number=22,
        what="the Challenge service hangs, fails, lies, redirects, sends bombs",
        holds="the breaker opens, nothing is cancelled, no redirect followed; jobs fire",
        tests=(
            f"{SERVICE}TestFaults::test_make_the_service_unavailable_in_time",
            f"{SERVICE}TestFaults::test_follow_no_redirect",
            f"{SERVICE}TestFaults::test_use_no_memory_where_the_answer_is_a_bomb",
            f"{SERVICE}TestCircuitBreaker::test_leaves_a_failing_service_alone",
            f"{EXECUTE}TestUpstreamFault::test_cancels_nothing_and_is_named",
            f"{RUNS}TestCaretaker::"
            "test_is_started_again_when_it_is_killed_and_firing_goes_on",
        ),
    ),
    Fault(
        number=23,
        what="a host's clock is stepped",
        holds="PostgreSQL: its clock decides; SQLite: firing stops, and that is told",
        tests=(
            "tests/faults/test_clock_steps.py::TestHostAnHourAhead::"
            "test_fires_nothing_early",
            "tests/scheduling/adapters/test_clock.py::TestClockGuard::"
            "test_goes_on_after_three_ticks_with_the_clock_set_back_right",
            "tests/autopilot_site/health/test_judgement.py::TestClock::"
            "test_a_step_is_told_with_its_size",
        ),
    ),
    Fault(
        number=24,
        what="changes to and from summer time, odd zones, leap days, the year's end",
        holds="each instant comes back as it went in, one without a zone is refused",
        tests=(
            f"{PHASES}TestParseInstant::test_reads_back_what_format_instant_writes",
            f"{PHASES}TestParseInstant::test_refuses_an_impossible_instant",
            f"{PHASES}TestParseInstant::test_says_that_the_zone_is_missing",
            "tests/recovery/test_promises.py::TestPromises::"
            "test_instants_are_the_same_under_every_host_time_zone",
        ),
    ),
    Fault(
        number=25,
        what="instants that are far away",
        holds="none fires, nothing overflows, beyond the limit it is refused",
        tests=(
            "tests/recovery/test_promises.py::TestPromises::"
            "test_what_lies_more_than_24_8_days_ahead_does_not_fire_early",
            f"{PHASES}TestParseInstant::test_reads_an_instant_with_a_zone",
            "tests/scheduling/api/test_transition_schedule.py::TestScheduleTransition::"
            "test_refuses_an_instant_outside_the_window",
        ),
    ),
    Fault(
        number=26,
        what="a herd: very many due at one instant",
        holds="all fire, none twice, with no more running at once than the limit",
        tests=(
            f"{KILLS}TestKilledProcess::"
            "test_whole_tree_at_once_leaves_the_work_to_the_next_start",
            f"{PUBLISH}TestPublishDue::test_never_has_more_running_than_the_limit",
            "tests/autopilot_site/test_benchmark_command.py::TestBenchmarkCommand::"
            "test_measures_everything_and_leaves_no_row",
        ),
        not_shown="10,000 at once take a minute: `manage.py benchmark` fires them.",
    ),
    Fault(
        number=27,
        what="a backlog after days of silence",
        holds="each transition fires late or is left to a person, none is dropped",
        tests=(
            f"{RUNS}TestOverdueAtStart::test_fires_in_due_order_and_is_acknowledged",
            f"{RUNS}TestOverdueAtStart::"
            "test_after_five_minutes_of_silence_only_what_differs_changes",
            f"{EXECUTE}TestOverdue::test_is_made_in_due_order_over_all_pages",
            f"{EXECUTE}TestOverdue::test_is_expired_beyond_the_age_limit",
        ),
    ),
    Fault(
        number=28,
        what="people and the engine at one job at once",
        holds="one wins each time, and the audit has every change",
        tests=(
            "tests/faults/test_races.py::TestFiftyHands::"
            "test_on_one_transition_leave_one_winner_each_time",
            "tests/scheduling/services/test_schedule.py::TestMixedRace::"
            "test_leaves_one_live_job_and_one_entry_for_each_change",
            "tests/scheduling/test_any_lifecycle.py::TestAnyLifecycle::"
            "test_is_as_the_model_has_it",
        ),
    ),
    Fault(
        number=29,
        what="two releases at work on one database",
        holds="the older one goes on while the newer one is rolled out, and the other way",
        not_shown="There is no earlier release yet to run beside this one. Migrations only "
        "ever add, so that it could.",
    ),
    Fault(
        number=30,
        what="huge bodies, deep nesting, thousands of items",
        holds="400 or 413 before anything is done, in constant memory",
        tests=(
            "tests/scheduling/api/test_limits.py::TestBodies::test_are_bounded_everywhere",
            "tests/scheduling/api/test_limits.py::TestBodies::"
            "test_are_strict_json_everywhere",
            "tests/scheduling/api/test_bulk.py::TestBulk::test_takes_a_thousand_and_no_more",
            "tests/scheduling/api/test_gate.py::TestGate::"
            "test_answers_while_a_client_would_send_for_ever",
        ),
    ),
    Fault(
        number=31,
        what="one cluster loses the database, another does not",
        holds="the other one fires; all is done within 15 s of the return",
        tests=(
            f"{DATABASE}TestOneOfTwoCutOff::"
            "test_lets_the_other_one_fire_and_goes_on_when_it_is_back",
        ),
        not_shown="Packets that vanish without a word take a network namespace or a second "
        "machine: there TCP's keepalives and the lease end what 7 shows by a pause.",
    ),
    Fault(
        number=32,
        what="a process that can't run is started over and over",
        holds="the waits double, up to ten seconds; the cause is said each time",
        tests=(
            "tests/autopilot_site/test_processes.py::TestCrashLoop::"
            "test_is_slowed_down_each_time",
        ),
    ),
    Fault(
        number=33,
        what="a machine with too little processor for all",
        holds="late, by less than 5 s, and right; starved is not dead",
        tests=(f"{KILLS}TestStarvedCluster::test_fires_late_and_is_not_taken_for_dead",),
        not_shown="Too little memory: the kernel kills, which is 2.",
    ),
    Fault(
        number=34,
        what="somebody edits the audit or the jobs behind the product's back",
        holds="the database refuses; past its triggers, `verify` finds 100 of 100 edits",
        tests=(
            "tests/scheduling/models/test_audit_entry.py::TestAuditIsAppendOnly::"
            "test_the_database_refuses_plain_sql",
            f"{SEALS}TestProveChain::test_finds_100_of_100_random_edits",
            "tests/autopilot_site/test_verification.py::TestTenOfTen::"
            "test_one_violation_of_each_invariant_is_found",
        ),
    ),
    Fault(
        number=35,
        what="hours of work under faults",
        holds="memory, descriptors, connections and lateness do not drift",
        not_shown="It takes hours: `make chaos DURATION=28800`, by hand.",
    ),
)
