from django.db import migrations, models


def leave_counts_out_of_the_log(apps, schema_editor):
    """Spare each count the wait for the disk; a crash empties the table, and may."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE scheduling_ratecount SET UNLOGGED")


class Migration(migrations.Migration):
    dependencies = [
        ("scheduling", "0003_dead_letters_and_outgoing_records"),
    ]

    operations = [
        migrations.CreateModel(
            name="RateCount",
            fields=[
                (
                    "key",
                    models.CharField(max_length=300, primary_key=True, serialize=False),
                ),
                ("started_at", models.FloatField()),
                ("count", models.BigIntegerField()),
            ],
        ),
        migrations.RunPython(leave_counts_out_of_the_log, migrations.RunPython.noop),
        migrations.CreateModel(
            name="RevokedTokenFamily",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("family", models.CharField(max_length=64, unique=True)),
                ("expires_at", models.DateTimeField()),
            ],
            options={"verbose_name_plural": "revoked token families"},
        ),
    ]
