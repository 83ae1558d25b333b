"""The product's settings with what tests need: keys, a file database, cheap passwords."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("SECRET_KEY", "tests-secret-key-that-is-long-enough-for-the-checks")
os.environ.setdefault("JWT_SIGNING_KEY", "tests-jwt-signing-key-of-more-than-32-bytes")

from autopilot_site.settings import *
from autopilot_site.settings import DATABASES

# A file, so that threads and the processes that tests start see the same database.
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["TEST"] = {
        "NAME": str(Path(tempfile.gettempdir()) / f"autopilot-tests-{os.getpid()}.sqlite3")
    }
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Each test client starts the middleware anew: it must not list every static file.
WHITENOISE_AUTOREFRESH = True
# What a test sets is looked for when it is set, and forgotten with the test.
LIVE_SETTINGS_SECONDS = None
