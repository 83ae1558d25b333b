"""The due instants of what people search for: filled in by the clusters."""

from importlib import import_module

from django.db import migrations, models

AddIndexOnline = import_module(
    "scheduling.migrations.0006_indexes_for_reading"
).AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("scheduling", "0016_verification_since")]

    operations = [
        migrations.AddField(
            model_name="jobtext",
            name="due_at",
            field=models.DateTimeField(null=True),
        ),
        AddIndexOnline(
            model_name="jobtext",
            index=models.Index(
                fields=["job"],
                condition=models.Q(due_at__isnull=True),
                name="job_text_undated",
            ),
        ),
    ]
