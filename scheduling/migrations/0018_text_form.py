"""In which form the text of a job is kept: by itself, so that it can be run again."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("scheduling", "0017_due_texts")]

    operations = [
        migrations.AddField(
            model_name="jobtext",
            name="form",
            field=models.SmallIntegerField(null=True),
        ),
    ]
