"""The routes under /api/v1/."""

from django.urls import path

from scheduling.api import (
    adjustment_views,
    audit_views,
    breaker_views,
    bulk,
    challenge_views,
    dead_letter_views,
    overrides,
    settings_views,
    stats_views,
    token_views,
    views,
)

urlpatterns = [
    path("auth/token/", token_views.TokenObtain.as_view(), name="token"),
    path("auth/token/refresh/", token_views.TokenRefresh.as_view(), name="token-refresh"),
    path(
        "auth/token/blacklist/", token_views.TokenRevoke.as_view(), name="token-blacklist"
    ),
    path("transitions/", views.TransitionList.as_view(), name="transitions"),
    # Before the job ids: none is spelt so.
    path("transitions/bulk/", bulk.TransitionBulk.as_view(), name="transitions-bulk"),
    path("transitions/<jobId>/", views.TransitionDetail.as_view(), name="transition"),
    path(
        "transitions/<jobId>/cancel/",
        overrides.TransitionCancel.as_view(),
        name="transition-cancel",
    ),
    path(
        "transitions/<jobId>/run-now/",
        overrides.TransitionRunNow.as_view(),
        name="transition-run-now",
    ),
    path(
        "transitions/<jobId>/retry/",
        overrides.TransitionRetry.as_view(),
        name="transition-retry",
    ),
    path(
        "transitions/<jobId>/audit/",
        views.TransitionAudit.as_view(),
        name="transition-audit",
    ),
    path(
        "schedule-adjustments/",
        adjustment_views.ScheduleAdjustments.as_view(),
        name="schedule-adjustments",
    ),
    path("audit/", audit_views.AuditList.as_view(), name="audit"),
    path("challenges/", challenge_views.ChallengeList.as_view(), name="challenges"),
    path(
        "challenges/<challengeId>/",
        challenge_views.ChallengeDetail.as_view(),
        name="challenge",
    ),
    path("dead-letters/", dead_letter_views.DeadLetterList.as_view(), name="dead-letters"),
    path(
        "dead-letters/<id>/",
        dead_letter_views.DeadLetterDetail.as_view(),
        name="dead-letter",
    ),
    path(
        "dead-letters/<id>/replay/",
        dead_letter_views.DeadLetterReplay.as_view(),
        name="dead-letter-replay",
    ),
    path(
        "dead-letters/<id>/discard/",
        dead_letter_views.DeadLetterDiscard.as_view(),
        name="dead-letter-discard",
    ),
    path(
        "circuit-breakers/",
        breaker_views.BreakerList.as_view(),
        name="circuit-breakers",
    ),
    path(
        "circuit-breakers/<name>/reset/",
        breaker_views.BreakerReset.as_view(),
        name="circuit-breaker-reset",
    ),
    path("settings/", settings_views.Settings.as_view(), name="settings"),
    path("stats/", stats_views.Stats.as_view(), name="stats"),
]
