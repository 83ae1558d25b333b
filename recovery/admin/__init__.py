"""Recovery in the admin: its runs, what each did and why, and what one would do now."""

from django.contrib import admin

from recovery.admin.run_pages import RunList, RunPage
from recovery.admin.start_page import StartRun
from recovery.models import RecoveryRun
from scheduling.admin.own_pages import OwnPagesAdmin


@admin.register(RecoveryRun)
class RecoveryRunAdmin(OwnPagesAdmin):
    """The runs' place in the admin."""

    list_page = RunList
    row_page = RunPage
    more_pages = (StartRun,)
