"""An index of what was published late, made beside running processes."""

from importlib import import_module

from django.db import migrations, models

AddIndexOnline = import_module(
    "scheduling.migrations.0006_indexes_for_reading"
).AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("scheduling", "0014_job_texts")]

    operations = [
        AddIndexOnline(
            model_name="scheduledtransition",
            index=models.Index(
                fields=["lateness_ms"],
                condition=models.Q(lateness_ms__gt=1000),
                name="transition_late",
            ),
        ),
    ]
