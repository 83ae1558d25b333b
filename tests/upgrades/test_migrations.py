"""Migrations may run while the release before is at work."""

import pytest
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState
from django.db.models.functions import Now

from tests.upgrades.migration_rules import faults_of

APPS = ("scheduling", "recovery")
LOADER = MigrationLoader(None)
OURS = sorted(key for key in LOADER.disk_migrations if key[0] in APPS)
# What the rules can't judge, by migration and operation, with what somebody has found.
REVIEWED = {
    ("scheduling", "0002_refuse_audit_changes", "RunPython"): (
        "Creates triggers on a table made by the migration before it: no release has rows."
    ),
    ("scheduling", "0004_rate_counts_and_token_families", "RunPython"): (
        "Takes a table out of the log that the same migration has made."
    ),
    ("scheduling", "0010_audit_seals", "RunPython"): (
        "Creates triggers on a table that the same migration has made."
    ),
    ("scheduling", "0014_job_texts", "RunPython"): (
        "Creates an index on an empty table that the same migration has made."
    ),
    ("scheduling", "0019_short_searches", "RunPython"): (
        "Creates a function, and builds two indexes beside the running processes."
    ),
}


def migration_of(*some, atomic=True):
    """Return a migration of a table that has long been there."""
    made = migrations.Migration("one", "scheduling")
    made.operations, made.atomic = list(some), atomic
    return made


def faults_where_it_stands(operation, *, atomic=True):
    state = ProjectState()
    migrations.CreateModel(
        "Job",
        [
            ("id", models.BigAutoField(primary_key=True)),
            ("name", models.CharField(max_length=40)),
            ("note", models.CharField(max_length=40, null=True)),
        ],
    ).state_forwards("scheduling", state)
    return [why for _, why in faults_of(migration_of(operation, atomic=atomic), state)]


def add(field):
    return migrations.AddField("job", "more", field)


def alter(field):
    return migrations.AlterField("job", "name", field)


INDEX = models.Index(fields=["name"], name="job_name")


class TestMigration:
    @pytest.mark.parametrize("key", OURS, ids=".".join)
    def test_lets_the_release_before_go_on(self, key):
        found = [
            f"{operation.describe()}: {why}"
            for operation, why in faults_of(
                LOADER.get_migration(*key), LOADER.project_state(key, at_end=False)
            )
            if (*key, type(operation).__name__) not in REVIEWED
        ]

        assert found == []

    def test_is_reviewed_only_where_it_is_there(self):
        there = {
            (*key, type(operation).__name__)
            for key in OURS
            for operation in LOADER.get_migration(*key).operations
        }

        assert set(REVIEWED) <= there


def kind_of(operation):
    """Return a name that is the same in each process of a run."""
    return type(operation).__name__


class TestFaultsOf:
    @pytest.mark.parametrize(
        "operation",
        [
            migrations.CreateModel("Note", [("id", models.BigAutoField(primary_key=True))]),
            add(models.CharField(max_length=9, null=True)),
            add(models.CharField(max_length=9, db_default="")),
            add(models.IntegerField(db_default=models.Value(0))),
            alter(models.CharField(max_length=80)),
            alter(models.CharField(max_length=40, null=True, blank=True)),
            alter(models.CharField(max_length=40, choices=[("a", "a")], default="a")),
            migrations.AlterModelOptions("job", {"ordering": ["name"]}),
        ],
        ids=kind_of,
    )
    def test_finds_none_in_what_only_adds(self, operation):
        assert faults_where_it_stands(operation) == []

    @pytest.mark.parametrize(
        "operation",
        [
            add(models.CharField(max_length=9)),
            add(models.CharField(max_length=9, default="")),
            add(models.DateTimeField(db_default=Now())),
            add(models.CharField(max_length=9, null=True, db_index=True)),
            add(models.CharField(max_length=9, null=True, unique=True)),
            add(models.ForeignKey("scheduling.job", models.CASCADE, null=True)),
            add(
                models.GeneratedField(
                    expression=models.F("id") + 1,
                    output_field=models.BigIntegerField(),
                    db_persist=True,
                )
            ),
            alter(models.CharField(max_length=20)),
            alter(models.TextField()),
            alter(models.CharField(max_length=40, unique=True)),
            migrations.AlterField("job", "note", models.CharField(max_length=40)),
            migrations.AddIndex("job", INDEX),
            migrations.RemoveIndex("job", "job_name"),
            migrations.AddConstraint(
                "job", models.UniqueConstraint(fields=["name"], name="job_once")
            ),
            migrations.RemoveField("job", "name"),
            migrations.RenameField("job", "name", "title"),
            migrations.RenameModel("Job", "Task"),
            migrations.DeleteModel("Job"),
            migrations.AlterModelTable("job", "jobs"),
            migrations.RunPython(migrations.RunPython.noop),
            migrations.RunSQL("SELECT 1"),
            migrations.SeparateDatabaseAndState([migrations.RunSQL("SELECT 1")]),
        ],
        ids=kind_of,
    )
    def test_finds_one_in_what_holds_up_or_takes_away(self, operation):
        state = faults_where_it_stands(operation)

        assert len(state) == 1

    @pytest.mark.parametrize(("atomic", "count"), [(False, 0), (True, 1)])
    def test_lets_indexes_be_built_beside_the_processes(self, atomic, count):
        found = faults_where_it_stands(AddIndexConcurrently("job", INDEX), atomic=atomic)

        assert len(found) == count

    def test_finds_none_in_what_is_done_to_a_new_table(self):
        made = migration_of(
            migrations.CreateModel("New", [("id", models.BigAutoField(primary_key=True))]),
            migrations.AddField("new", "name", models.CharField(max_length=9, default="")),
            migrations.AddIndex("new", models.Index(fields=["name"], name="new_name")),
        )

        assert list(faults_of(made, ProjectState())) == []
