from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("scheduling", "0010_audit_seals")]

    operations = [
        migrations.CreateModel(
            name="VerificationResult",
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
                ("name", models.CharField(max_length=20, unique=True)),
                ("started_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField()),
                ("is_ok", models.BooleanField()),
                ("violations", models.JSONField(default=dict)),
                ("unchecked", models.JSONField(default=list)),
                ("findings", models.JSONField(default=list)),
                ("seal_number", models.BigIntegerField(default=0)),
                (
                    "seal_digest",
                    models.CharField(blank=True, default="", max_length=64),
                ),
                ("rechecked_to", models.BigIntegerField(default=0)),
            ],
        ),
    ]
