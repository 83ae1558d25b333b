import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("scheduling", "0006_indexes_for_reading")]

    operations = [
        migrations.CreateModel(
            name="AdjustmentBatch",
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
                ("batch_id", models.CharField(max_length=255, unique=True)),
                ("fingerprint", models.CharField(max_length=64)),
                ("token", models.UUIDField(default=uuid.uuid4)),
                ("actor", models.CharField(max_length=300)),
                ("created_at", models.DateTimeField()),
                ("answer", models.JSONField(default=dict)),
            ],
            options={
                "verbose_name_plural": "adjustment batches",
                "ordering": ["id"],
                "indexes": [
                    models.Index(fields=["created_at"], name="adjustment_batch_age")
                ],
            },
        ),
    ]
