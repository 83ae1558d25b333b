"""Stock django-q2 on PostgreSQL through the ORM broker."""

import os
from urllib.parse import urlsplit

_url = urlsplit(os.environ["PEERS_DATABASE_URL"])

SECRET_KEY = "nothing is signed with it"  # noqa: S105
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_q"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _url.hostname,
        "PORT": _url.port,
        "USER": _url.username,
        "NAME": _url.path[1:],
    }
}
# All else as it comes: as many workers as cores, a poll each 0.2 s. The two are set as low
# as they may be, so that what a killed cluster held is handed out again within 75 s.
Q_CLUSTER = {"name": "peers", "orm": "default", "timeout": 20, "retry": 30}
LOGGING = {
    "version": 1,
    "handlers": {"nowhere": {"class": "logging.NullHandler"}},
    "loggers": {
        "django-q": {"handlers": ["nowhere"], "level": "ERROR", "propagate": False}
    },
}
