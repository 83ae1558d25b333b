"""What is done for the site's security, and which test stands for each part of it.

After OWASP's ASVS 5.0 (level 2) and API Security Top 10 of 2023, as far as they concern
such a system. What is not there has its reason.
"""

from dataclasses import dataclass

API = "tests/scheduling/api"
SITE = "tests/autopilot_site"
HERE = "tests/security"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One promise.

    tests: each as pytest names it, without what stands in brackets.
    lint: what of `make lint` sees to it.
    not_here: what one might expect and does not find, and why.
    """

    promise: str
    tests: tuple[str, ...] = ()
    lint: tuple[str, ...] = ()
    not_here: str = ""


ROWS = (
    # --- Tokens and sessions ----------------------------------------------------------
    Row(
        promise="The algorithm of a token is the settings' word, never the token's.",
        tests=(
            f"{API}/test_access.py::TestBearerToken::test_a_forged_token_opens_nothing",
            f"{API}/test_routes.py::TestGuardedRoutes::test_are_closed_to_forged_tokens",
            f"{API}/test_outside_issuer.py::TestOutsideToken::test_that_is_none_opens_nothing",
            f"{API}/test_outside_issuer.py::TestKeySet::test_is_not_sought_elsewhere",
        ),
    ),
    Row(
        promise="Issuer, audience, expiry, start and kind of a token are checked.",
        tests=(
            f"{API}/test_access.py::TestBearerToken::test_a_forged_token_opens_nothing",
            f"{API}/test_tokens.py::TestTokens::test_are_not_renewed_by_an_access_token",
            f"{API}/test_tokens.py::TestKeys::"
            "test_a_clock_that_is_ahead_elsewhere_refuses_nothing",
        ),
    ),
    Row(
        promise="Tokens have a key of their own, of 32 bytes or more, that can be changed.",
        tests=(
            f"{SITE}/test_token_environment.py::TestSigningKey::"
            "test_that_is_short_or_the_sites_secret_stops_the_start",
            f"{SITE}/test_token_environment.py::TestVerifyingKeys::"
            "test_that_are_bad_are_refused_and_not_shown",
            f"{API}/test_tokens.py::TestKeys::"
            "test_an_older_key_opens_the_api_and_renews_while_it_is_listed",
            f"{API}/test_tokens.py::TestKeys::test_an_older_key_excuses_nothing_else",
        ),
    ),
    Row(
        promise="An outside issuer's keys come by https, and unknown ones cost it little.",
        tests=(
            f"{SITE}/test_token_environment.py::TestOutsideIssuer::"
            "test_has_its_keys_at_an_https_address",
            f"{API}/test_outside_issuer.py::TestKeySet::"
            "test_unknown_keys_make_it_be_read_again_now_and_then",
            f"{API}/test_outside_issuer.py::TestKeySet::test_is_not_asked_for_by_garbage",
            f"{API}/test_outside_issuer.py::TestKeySet::"
            "test_the_keys_read_last_serve_through_an_outage_of_the_issuer",
            f"{API}/test_outside_issuer.py::TestKeySet::test_is_not_read_beyond_a_sane_size",
            f"{API}/test_outside_issuer.py::TestKeySet::test_is_not_waited_for_without_end",
        ),
    ),
    Row(
        promise="Tokens are short-lived; a spent refresh token ends its whole log-in.",
        tests=(
            f"{API}/test_tokens.py::TestTokens::test_live_five_minutes_and_a_day",
            f"{API}/test_tokens.py::TestTokens::test_are_not_renewed_past_their_day",
            f"{API}/test_tokens.py::TestSpentToken::test_ends_the_whole_log_in",
            f"{API}/test_tokens.py::TestSpentToken::test_is_audited_once",
            f"{API}/test_tokens.py::TestParallelRenewals::"
            "test_one_of_ten_wins_and_the_log_in_ends",
            f"{API}/test_tokens.py::TestTokens::test_are_not_renewed_after_a_log_out",
            f"{API}/test_routes.py::TestGuardedRoutes::"
            "test_are_closed_to_a_user_who_lost_access",
        ),
    ),
    Row(
        promise="Issuer and subject say who somebody is; the database, what they may.",
        tests=(
            f"{API}/test_outside_issuer.py::TestOutsideToken::"
            "test_lets_its_subject_in_and_the_audit_names_issuer_and_subject",
            f"{API}/test_outside_issuer.py::TestOutsideToken::"
            "test_has_no_role_by_a_user_of_the_same_name",
            f"{API}/test_access.py::TestRolePermission::"
            "test_a_withdrawn_role_ends_at_once_whatever_the_token_says",
            f"{API}/test_access.py::TestRolePermission::test_a_claim_of_roles_gives_none",
        ),
    ),
    # --- Rights -----------------------------------------------------------------------
    Row(
        promise="Every route has its role in one table; a route without one fails.",
        tests=(
            f"{API}/test_routes.py::TestTable::test_has_a_row_for_every_route_and_no_other",
            f"{API}/test_routes.py::TestGuardedRoutes::"
            "test_open_to_each_role_what_is_its_own",
            f"{API}/test_routes.py::TestGuardedRoutes::"
            "test_are_closed_to_a_user_without_a_role",
            "tests/scheduling/domain/test_actors.py::TestAuthorize::"
            "test_refuses_with_the_role_and_the_operation",
        ),
    ),
    Row(
        promise="Rights by project or challenge.",
        not_here=(
            "The three roles reach over all challenges: there are no tenants. Whoever must "
            "not see a challenge has no account."
        ),
    ),
    Row(
        promise="A field that is not the client's to write is refused by name.",
        tests=(
            f"{API}/test_limits.py::TestMassAssignment::test_of_a_new_job_is_named",
            f"{API}/test_limits.py::TestMassAssignment::test_of_a_job_is_named",
            f"{API}/test_schema.py::TestSchema::test_says_that_a_body_has_no_other_fields",
            f"{SITE}/test_accounts.py::TestUsers::"
            "test_do_not_become_superusers_by_a_forged_field",
        ),
    ),
    Row(
        promise="What can't be taken back asks for a reason, and in the admin twice.",
        tests=(
            f"{API}/test_overrides.py::TestBoth::test_need_a_reason",
            f"{API}/test_transition_detail.py::TestCancel::test_needs_a_reason",
            "tests/scheduling/admin/test_overrides.py::TestPage::"
            "test_shows_what_will_change_and_changes_nothing",
            "tests/scheduling/admin/test_overrides.py::TestPost::"
            "test_demands_to_be_confirmed",
        ),
        not_here=(
            "A second person's consent: at the due instant it would hold up those whom the "
            "overrides are for. The audit tells who did what, and the admin asks first."
        ),
    ),
    Row(
        promise="An override is checked and done in one step, whoever races it.",
        tests=(
            "tests/faults/test_races.py::TestFiftyHands::"
            "test_on_one_transition_leave_one_winner_each_time",
            f"{API}/test_conditional.py::TestRace::test_of_two_with_the_same_tag_one_wins",
            "tests/scheduling/admin/test_overrides.py::TestTwoAtOnce::"
            "test_have_one_effect_and_the_other_is_told",
        ),
    ),
    Row(
        promise="Passwords can't be guessed at, nor names found out.",
        tests=(
            f"{API}/test_log_in.py::TestLogIn::test_is_locked_out_after_so_many_failures",
            f"{API}/test_log_in.py::TestLogIn::test_is_locked_out_at_the_other_door_too",
            f"{API}/test_log_in.py::TestLogIn::"
            "test_works_as_hard_and_says_the_same_for_a_name_that_nobody_has",
            f"{API}/test_gunicorn_limits.py::TestLimits::"
            "test_of_failures_hold_over_both_processes",
        ),
    ),
    Row(
        promise="The admin is for those with a role, for one day, and has no risky page.",
        tests=(
            "tests/scheduling/admin/test_admin_pages.py::TestSignIn::"
            "test_is_asked_for_on_every_page",
            "tests/scheduling/admin/test_admin_pages.py::TestSite::"
            "test_has_no_pages_that_run_code_or_show_tokens",
            f"{HERE}/test_headers.py::TestSession::"
            "test_is_a_cookie_that_scripts_and_other_sites_don_t_get",
            f"{HERE}/test_headers.py::TestSession::test_is_another_one_after_the_log_in",
        ),
        not_here=(
            "A second factor at the admin: with an outside issuer the API has that of the "
            "issuer; before the admin it belongs to the proxy that every production has."
        ),
    ),
    # --- Limits -----------------------------------------------------------------------
    Row(
        promise="Requests are counted over all processes, and by an address nobody forges.",
        tests=(
            f"{API}/test_throttles.py::TestParallelRequests::"
            "test_fifty_at_once_get_exactly_what_is_allowed",
            f"{API}/test_gunicorn_limits.py::TestLimits::"
            "test_of_a_user_hold_for_fifty_requests_at_once",
            f"{API}/test_client_address.py::TestClientAddress::"
            "test_is_the_peer_whatever_a_header_says",
            f"{API}/test_client_address.py::TestClientAddress::"
            "test_behind_a_proxy_of_ours_is_the_last_hop",
        ),
    ),
    Row(
        promise="Bodies, depth, texts, pages and lists are bounded.",
        tests=(
            f"{API}/test_limits.py::TestBodies::test_are_bounded_everywhere",
            f"{API}/test_limits.py::TestBodies::test_may_nest_as_deep_as_a_metadata_may",
            f"{API}/test_gate.py::TestGate::test_answers_while_a_client_would_send_for_ever",
            f"{API}/test_bulk.py::TestBulk::test_takes_a_thousand_and_no_more",
            f"{API}/test_transition_list.py::TestListTransitions::"
            "test_the_largest_page_holds_500",
            f"{API}/test_transition_list.py::TestListTransitions::"
            "test_a_search_takes_every_sign_for_itself",
        ),
    ),
    Row(
        promise="Filters and orders are those there are; nothing is spliced into SQL.",
        tests=(
            f"{API}/test_transition_list.py::TestListTransitions::"
            "test_names_what_is_wrong_in_the_query",
            f"{API}/test_limits.py::TestInjection::"
            "test_into_a_filter_finds_nothing_and_breaks_nothing",
            f"{API}/test_limits.py::TestInjection::test_into_a_parameter_s_name_is_a_400",
        ),
        lint=("ruff",),
    ),
    Row(
        promise="The Challenge service can't lead us elsewhere, nor fill the memory.",
        tests=(
            "tests/scheduling/adapters/test_challenge_service.py::TestFaults::"
            "test_follow_no_redirect",
            "tests/scheduling/adapters/test_challenge_service.py::TestRead::"
            "test_keeps_an_id_in_its_place_in_the_path",
            "tests/scheduling/adapters/test_challenge_service.py::TestFaults::"
            "test_use_no_memory_where_the_answer_is_a_bomb",
            "tests/scheduling/adapters/test_challenge_service.py::TestFaults::"
            "test_use_no_memory_where_the_answer_never_ends",
        ),
        not_here=(
            "A list of hosts and a refusal of private addresses: where the service is, is "
            "the operator's word alone, and it often is inside."
        ),
    ),
    # --- Audit ------------------------------------------------------------------------
    Row(
        promise="The audit can't be changed, and whoever gets past that is found.",
        tests=(
            "tests/scheduling/models/test_audit_entry.py::TestAuditIsAppendOnly::"
            "test_the_database_refuses_plain_sql",
            "tests/scheduling/services/test_seals.py::TestSealsAreAppendOnly::"
            "test_the_database_refuses_a_queryset",
            "tests/scheduling/services/test_seals.py::TestProveChain::"
            "test_finds_100_of_100_random_edits",
            f"{SITE}/test_verification_watch.py::TestRun::"
            "test_notices_a_chain_that_was_cut_off",
            f"{HERE}/test_database_roles.py::TestEveryRole::test_leaves_the_audit_as_it_is",
        ),
    ),
    # --- Tasks ------------------------------------------------------------------------
    Row(
        promise="A row in the queue of tasks can't make the cluster run foreign code.",
        tests=(
            "tests/scheduling/adapters/test_task_packages.py::TestSignedPackage::"
            "test_of_a_pickle_is_refused_and_runs_nothing",
            "tests/scheduling/adapters/test_task_packages.py::TestSignedPackage::"
            "test_of_anything_else_than_a_task_of_ours_is_refused",
            "tests/scheduling/adapters/test_task_packages.py::TestQueue::"
            "test_drops_a_forged_row_and_goes_on",
        ),
        not_here=(
            "A key of the queue's own: a forged task may be one of the product's chores "
            "and nothing else, which run by themselves anyway."
        ),
    ),
    Row(
        promise="Results of tasks are not read, and web processes can't write any.",
        tests=(
            "tests/scheduling/adapters/test_task_packages.py::TestResults::"
            "test_that_somebody_wrote_into_the_table_are_not_read",
            f"{HERE}/test_database_roles.py::TestWeb::"
            "test_can_have_the_cluster_run_nothing",
        ),
    ),
    Row(
        promise="Periodic tasks are the code's; those in django-q2's table never run.",
        tests=(
            "tests/scheduling/adapters/test_task_packages.py::TestSchedules::"
            "test_of_django_q_are_not_looked_at",
            "tests/scheduling/admin/test_admin_pages.py::TestSite::"
            "test_answers_nothing_where_they_were",
        ),
    ),
    # --- Secrets, logs, errors --------------------------------------------------------
    Row(
        promise="Secrets come from environment or files; without good ones nothing starts.",
        tests=(
            f"{SITE}/test_environment.py::TestManage::"
            "test_asks_for_a_secret_key_with_debug_off",
            f"{SITE}/test_environment.py::TestManage::test_keeps_a_bad_secret_to_itself",
            f"{SITE}/test_doctor.py::TestDoctor::test_names_a_key_that_is_easily_guessed",
            f"{HERE}/test_source.py::TestTrackedFiles::test_hold_no_secret",
        ),
    ),
    Row(
        promise="No secret and no line break of a stranger's gets into a log.",
        tests=(
            "tests/scheduling/test_log_context.py::TestSecrets::"
            "test_of_this_process_are_in_no_line",
            "tests/scheduling/test_log_context.py::TestSecrets::"
            "test_that_came_in_are_in_no_line",
            "tests/scheduling/test_log_context.py::TestContextFilter::"
            "test_names_none_of_a_form_that_no_log_should_hold",
            f"{API}/test_tokens.py::TestTokens::test_are_kept_nowhere_in_the_database",
        ),
    ),
    Row(
        promise="Errors are problems without traces, and what can't be audited is refused.",
        tests=(
            f"{API}/test_errors.py::TestProblemResponse::"
            "test_an_unexpected_error_says_where_to_look_and_nothing_else",
            f"{API}/test_errors.py::TestProblemResponse::"
            "test_a_database_out_of_reach_is_told_without_its_words",
            f"{API}/test_errors.py::TestProblemResponse::"
            "test_a_refusal_that_cannot_be_audited_is_not_answered_as_one",
            f"{API}/test_errors.py::TestEveryAnswerUnderApi::"
            "test_is_a_problem_where_the_middleware_fails",
        ),
    ),
    # --- On the wire ------------------------------------------------------------------
    Row(
        promise="HTTPS can be demanded; an unproven neighbour elsewhere is warned of.",
        tests=(
            f"{HERE}/test_headers.py::TestEveryRoute::"
            "test_is_kept_on_https_where_it_is_asked_for",
            "tests/scheduling/test_checks.py::TestCheckNeighboursAreProven::"
            "test_warns_of_a_broker_elsewhere_without_tls",
            "tests/scheduling/test_checks.py::TestCheckNeighboursAreProven::"
            "test_warns_of_a_database_elsewhere_that_is_not_proven",
            "tests/scheduling/adapters/test_challenge_service.py::TestFaults::"
            "test_of_a_certificate_are_told_without_the_address",
        ),
        lint=("check --deploy",),
    ),
    Row(
        promise="A browser loads and sends nothing but ours; no other site moves anything.",
        tests=(
            f"{HERE}/test_headers.py::TestEveryRoute::"
            "test_answers_strangers_with_all_guards",
            f"{HERE}/test_headers.py::TestEveryRoute::"
            "test_answers_a_superuser_with_all_guards",
            f"{HERE}/test_headers.py::TestSession::test_moves_nothing_for_another_site",
            f"{API}/test_access.py::TestBearerToken::test_a_session_opens_nothing",
            "tests/scheduling/admin/test_overrides.py::TestPost::"
            "test_refuses_a_form_of_somebody_else",
            "tests/browser/test_admin_in_a_browser.py::TestEveryRole::"
            "test_walks_every_page_without_a_complaint",
        ),
    ),
    Row(
        promise="Health and metrics need no token, and tell no address, name or secret.",
        tests=(
            f"{SITE}/health/test_judgement.py::TestKafka::"
            "test_no_address_and_no_user_is_told",
            f"{SITE}/health/test_pages.py::TestWithoutDatabase::"
            "test_passes_nothing_on_of_what_the_driver_said",
            f"{SITE}/health/test_pages.py::TestPages::test_are_read_only",
        ),
    ),
    Row(
        promise="A Kafka record is a stranger's: checked whole, and it gives no rights.",
        tests=(
            "tests/scheduling/services/test_any_record.py::TestHandleRecords::"
            "test_handles_any_record_or_sets_it_aside",
            "tests/scheduling/services/test_commands.py::TestOperators::"
            "test_that_nobody_named_may_not",
            "tests/scheduling/services/test_commands.py::TestHandleCommand::"
            "test_that_is_refused_is_audited_too",
            "tests/scheduling/test_messages_in.py::TestAnyBytes::test_are_read_or_unusable",
        ),
        not_here=(
            "Proof of who wrote a record: Kafka's own rights (ACLs) say who may write to a "
            "topic, and whoever may is believed to be the `operator` it names."
        ),
    ),
    # --- How it is made ---------------------------------------------------------------
    Row(
        promise="Dependencies are locked by hash, and looked up among known holes.",
        tests=(
            f"{HERE}/test_source.py::TestLockedPackages::test_are_each_known_by_a_hash",
        ),
        lint=("pip-audit",),
    ),
    Row(
        promise="The code is searched for what is risky.",
        tests=(f"{HERE}/test_source.py::TestCode::test_has_nothing_that_nobody_may_waive",),
        lint=("ruff", "bandit"),
    ),
    Row(
        promise="The API is fuzzed by its own document, in every role.",
        tests=(
            f"{API}/test_schemathesis.py::TestEveryOperation::"
            "test_answers_as_its_document_says",
        ),
    ),
    Row(
        promise="Each process has the rights it needs and no more, also in the database.",
        tests=(
            f"{HERE}/test_database_roles.py::TestEngine::"
            "test_fires_consumes_seals_and_verifies",
            f"{HERE}/test_database_roles.py::TestWeb::test_serves_the_api_and_the_admin",
            f"{HERE}/test_database_roles.py::TestEveryRole::"
            "test_changes_no_table_and_no_trigger",
            f"{HERE}/test_deployment.py::TestUnit::test_leaves_the_process_little",
            f"{HERE}/test_deployment.py::TestContainer::test_is_no_root",
        ),
    ),
)
