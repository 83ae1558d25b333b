"""The ASGI application that gunicorn serves."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "autopilot_site.settings")
django_application = get_asgi_application()

# Only now are the apps ready to be imported from.
from django.db import connections  # noqa: E402

from scheduling.api.gate import Gate  # noqa: E402

# Django gives each request of an ASGI server a thread of its own. A connection kept for
# the next request would never be found again, and stay open.
connections.settings["default"]["CONN_MAX_AGE"] = 0

application = Gate(django_application)
