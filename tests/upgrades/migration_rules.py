"""Which operations of a migration let the release before go on, and hold nobody up.

While a migration runs, and until the last host is upgraded, the release before works on
the same tables: it inserts without the new columns, reads the old ones, and waits where
a lock is held for long. So tables and columns are only added, and indexes are built
beside the running processes. What is new in the same migration is nobody's yet.
"""

from django.contrib.postgres import operations as postgres
from django.db.migrations import operations
from django.db.models import CharField, GeneratedField, Value

# Only Django's own picture of the models, or the catalogue, and for a moment.
HARMLESS = (
    operations.CreateModel,
    operations.AlterModelOptions,
    operations.AlterModelManagers,
    operations.AlterModelTableComment,
    operations.RemoveConstraint,
    postgres.AddConstraintNotValid,
    postgres.ValidateConstraint,
)
CONCURRENT = (postgres.AddIndexConcurrently, postgres.RemoveIndexConcurrently)
UNKNOWN = "does what nobody can tell from outside: name the reason why it is quick"
FAULTS = {
    operations.RunPython: UNKNOWN,
    operations.RunSQL: UNKNOWN,
    operations.AddIndex: "locks out all who write until the index is built",
    operations.RemoveIndex: "waits for all who read, and lets nobody pass meanwhile",
    operations.AddConstraint: "reads the whole table while nobody may write",
    operations.RemoveField: "the release before still reads the column",
    operations.DeleteModel: "the release before still reads the table",
    operations.RenameField: "the release before knows the old name",
    operations.RenameModel: "the release before knows the old name",
    operations.AlterModelTable: "the release before knows the old name",
    operations.AlterUniqueTogether: "reads the whole table while nobody may write",
    operations.AlterIndexTogether: "locks out all who write until the index is built",
}


def faults_of(migration, state):
    """Yield what is wrong with a migration: the operation, and why.

    Args:
        state: The models as they are before it.
    """
    new = set()
    for operation in migration.operations:
        for part in _parts(operation):
            if isinstance(part, operations.CreateModel):
                new.add(part.name_lower)
            elif getattr(part, "model_name_lower", None) not in new:
                why = _fault_of(part, migration, state)
                if why:
                    yield part, why
        operation.state_forwards(migration.app_label, state)


def _parts(operation):
    """Yield what an operation does in the database."""
    if not isinstance(operation, operations.SeparateDatabaseAndState):
        yield operation
        return
    for part in operation.database_operations:
        yield from _parts(part)


def _fault_of(operation, migration, state):
    """Return why an operation must not be; None where it may."""
    if isinstance(operation, CONCURRENT):
        return "" if not migration.atomic else "can't run in a transaction: atomic = False"
    if isinstance(operation, HARMLESS):
        return None
    if isinstance(operation, operations.AddField):
        return _fault_of_new(operation.field)
    if isinstance(operation, operations.AlterField):
        model = state.models[migration.app_label, operation.model_name_lower]
        return _fault_of_change(model.fields[operation.name], operation.field)
    for kind, why in FAULTS.items():
        if isinstance(operation, kind):
            return why
    return "is not known here: say in migration_rules.py what it does under load"


def _fault_of_new(field):
    """Return why a column must not be added so."""
    if field.is_relation or field.unique or field.db_index:
        return "builds an index while nobody may write: add it afterwards, concurrently"
    if isinstance(field, GeneratedField):
        return "writes every row anew"
    if field.has_db_default():
        is_constant = isinstance(field.db_default, Value) or not hasattr(
            field.db_default, "resolve_expression"
        )
        return None if is_constant else "may write every row anew: its default is computed"
    return None if field.null else "the release before inserts without it: db_default"


def _fault_of_change(old, new):
    """Return why a column must not be changed so."""
    (_, kind, _, before), (_, new_kind, _, after) = old.deconstruct(), new.deconstruct()
    ignored = {*new.non_db_attrs, "default", "db_default"}
    changed = {
        name
        for name in (before.keys() | after.keys()) - ignored
        if before.get(name) != after.get(name)
    }
    if kind == new_kind and isinstance(new, CharField):
        longer = (new.max_length or 0) >= (old.max_length or 0)
        changed -= {"max_length"} if longer else set()
    if new.null:
        changed -= {"null"}
    if kind == new_kind and not changed:
        return None
    return "writes or reads the whole table while nobody may use it"
