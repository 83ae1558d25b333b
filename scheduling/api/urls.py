"""The routes under /api/v1/."""

from django.urls import path

from scheduling.api import token_views, views

urlpatterns = [
    path("auth/token/", token_views.TokenObtain.as_view(), name="token"),
    path("auth/token/refresh/", token_views.TokenRefresh.as_view(), name="token-refresh"),
    path(
        "auth/token/blacklist/", token_views.TokenRevoke.as_view(), name="token-blacklist"
    ),
    path("transitions/", views.TransitionList.as_view(), name="transitions"),
    path("transitions/<jobId>/", views.TransitionDetail.as_view(), name="transition"),
    path(
        "transitions/<jobId>/cancel/",
        views.TransitionCancel.as_view(),
        name="transition-cancel",
    ),
    path(
        "transitions/<jobId>/audit/",
        views.TransitionAudit.as_view(),
        name="transition-audit",
    ),
]
