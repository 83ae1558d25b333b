"""Recovery as a Django app."""

from django.apps import AppConfig


class RecoveryConfig(AppConfig):
    """The caretaker: knows scheduling, and is unknown to it."""

    name = "recovery"
