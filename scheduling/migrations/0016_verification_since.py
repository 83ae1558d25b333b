from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("scheduling", "0015_late_jobs")]

    operations = [
        migrations.AddField(
            model_name="verificationresult",
            name="looked_since",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="verificationresult",
            name="broken_since",
            field=models.DateTimeField(blank=True, null=True),
        ),
    ]
