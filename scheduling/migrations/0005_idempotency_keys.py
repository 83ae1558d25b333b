import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("scheduling", "0004_rate_counts_and_token_families")]

    operations = [
        migrations.CreateModel(
            name="IdempotencyKey",
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
                ("actor", models.CharField(max_length=300)),
                ("key", models.CharField(max_length=255)),
                ("fingerprint", models.CharField(max_length=64)),
                ("created_at", models.DateTimeField()),
                ("taken_at", models.DateTimeField()),
                ("token", models.UUIDField(default=uuid.uuid4)),
                ("owner", models.CharField(max_length=400)),
                ("status", models.PositiveSmallIntegerField(blank=True, null=True)),
                ("content", models.TextField(blank=True, default="")),
                ("headers", models.JSONField(default=dict)),
            ],
            options={
                "ordering": ["id"],
                "indexes": [
                    models.Index(fields=["created_at"], name="idempotency_key_age")
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("actor", "key"), name="idempotency_key_once_per_actor"
                    )
                ],
            },
        ),
    ]
