"""Django's settings: one file; the environment decides what differs between hosts."""

import os
import secrets
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import environ
import structlog
from csp import constants as csp
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static

from autopilot_site.env import (
    LEAST_KEY_BYTES,
    SiteSettings,
    check_outside_issuer,
    load_secret_files,
    read,
    verifying_keys,
)
from scheduling.conf import (
    BREAKER_SETTINGS,
    MessageSettings,
    RecoverySettings,
    SchedulerSettings,
)
from scheduling.live_settings import constance_config
from scheduling.log_context import add_ids, keep_secret

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Environment ----------------------------------------------------------------------
load_secret_files(os.environ)
SITE = read(SiteSettings)
SCHEDULER = read(SchedulerSettings)
RECOVERY = read(RecoverySettings)
MESSAGES = read(MessageSettings)
BREAKERS = {name: read(group) for name, group in BREAKER_SETTINGS.items()}

# Some may change while the processes run (scheduling.live_settings): each process looks
# this often for what a person has set.
LIVE_SETTINGS_SECONDS = 2.0
CONSTANCE_BACKEND = "constance.backends.database.DatabaseBackend"
CONSTANCE_CONFIG = constance_config([SCHEDULER, RECOVERY, *BREAKERS.values()])

# --- Secrets --------------------------------------------------------------------------
DEBUG = SITE.debug
# Only ever used with DEBUG on: every process of a first start must share it.
_DEVELOPMENT_KEY = "development-only-key-that-protects-nothing-at-all"
SECRET_KEY = SITE.secret_key.get_secret_value() or (_DEVELOPMENT_KEY if DEBUG else "")
JWT_SIGNING_KEY = SITE.jwt_signing_key.get_secret_value() or (
    f"jwt-{_DEVELOPMENT_KEY}" if DEBUG else ""
)
JWT_VERIFYING_KEYS = verifying_keys(SITE, secret_key=SECRET_KEY)
# An outside issuer's tokens, where it is named, are accepted in place of our own.
check_outside_issuer(SITE)
JWT_ISSUER = SITE.jwt_issuer
JWT_AUDIENCE = SITE.jwt_audience
JWT_JWKS_URL = SITE.jwt_jwks_url
JWT_ROLES_CLAIM = SITE.jwt_roles_claim
if JWT_ISSUER and not JWT_SIGNING_KEY:
    # Nothing is ever signed with it: own tokens are neither given nor accepted.
    JWT_SIGNING_KEY = secrets.token_urlsafe(48)
if not SECRET_KEY:
    raise ImproperlyConfigured("SECRET_KEY: is required unless DEBUG is on")
if len(JWT_SIGNING_KEY.encode()) < LEAST_KEY_BYTES or JWT_SIGNING_KEY == SECRET_KEY:
    raise ImproperlyConfigured(
        f"JWT_SIGNING_KEY=…: must have at least {LEAST_KEY_BYTES} bytes and differ from "
        "SECRET_KEY; it is required unless DEBUG is on or there is an outside issuer"
    )

# --- Applications ---------------------------------------------------------------------
INSTALLED_APPS = [
    "autopilot_site.apps.AutopilotSiteConfig",
    "recovery.apps.RecoveryConfig",
    "scheduling.apps.SchedulingConfig",
    # Its templates stand before those of Django's admin.
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "autopilot_site.apps.RoleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_q",
    "csp",
    "constance",
    "django_filters",
    "rest_framework",
    "rest_framework_simplejwt.token_blacklist",
    "axes",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "scheduling.api.request_id.request_id_middleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    # Last, as it asks to be: turns the admin's answer into a refusal where one is due.
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "autopilot_site.urls"
ASGI_APPLICATION = "autopilot_site.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "libraries": {"autopilot": "scheduling.pages.template_tags"},
        },
    }
]

# --- Database -------------------------------------------------------------------------
# SQLite: without IMMEDIATE a transaction that reads and then writes fails at once when
# another process wrote in between; WAL lets readers go on beside the one writer.
_SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
}
# PostgreSQL: a process paused inside a transaction must not hold the others up, and a
# peer that is gone without a word must be noticed.
_POSTGRES_OPTIONS = {
    # Only the engine prepares statements; their plans don't depend on the values.
    "options": "-c idle_in_transaction_session_timeout=10s -c lock_timeout=5s"
    " -c plan_cache_mode=force_generic_plan"
    # The server's side of the same: a session whose client is gone without a word may
    # hold the claims' lock.
    " -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
    " -c tcp_user_timeout=10s",
    "application_name": "autopilot",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def _database() -> dict[str, Any]:
    """Return the one database's settings from DATABASE_URL.

    Raises:
        ImproperlyConfigured: The address is neither PostgreSQL's nor SQLite's.
    """
    url = SITE.database_url.get_secret_value()
    default = f"sqlite:///{BASE_DIR / 'autopilot.sqlite3'}"
    try:
        database: dict[str, Any] = dict(environ.Env.db_url_config(url or default))
    except (ValueError, ImproperlyConfigured):
        database = {}
    options = {
        "django.db.backends.sqlite3": _SQLITE_OPTIONS,
        "django.db.backends.postgresql": _POSTGRES_OPTIONS,
    }.get(database.get("ENGINE", ""))
    if options is None:
        raise ImproperlyConfigured(
            "DATABASE_URL=…: must be postgres://USER:PASSWORD@HOST:PORT/NAME or "
            "sqlite:///PATH"
        )
    return {
        **database,
        "OPTIONS": options | database.get("OPTIONS", {}),
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
    }


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Kafka ----------------------------------------------------------------------------
KAFKA_IS_EMBEDDED = not SITE.kafka_bootstrap_servers
_KAFKA_VALUES: dict[str, str] = {
    "bootstrap.servers": SITE.kafka_bootstrap_servers
    or f"127.0.0.1:{SITE.kafka_embedded_port}",
    "client.id": SITE.kafka_client_id,
    "security.protocol": SITE.kafka_security_protocol,
    "sasl.mechanism": SITE.kafka_sasl_mechanism,
    "sasl.username": SITE.kafka_sasl_username,
    "sasl.password": SITE.kafka_sasl_password.get_secret_value(),
    "ssl.ca.location": SITE.kafka_ssl_ca_location,
    "ssl.certificate.location": SITE.kafka_ssl_certificate_location,
    "ssl.key.location": SITE.kafka_ssl_key_location,
    "ssl.key.password": SITE.kafka_ssl_key_password.get_secret_value(),
}
# What every librdkafka client of ours starts from.
KAFKA_CLIENT: dict[str, str | int | bool] = {
    **{name: value for name, value in _KAFKA_VALUES.items() if value},
    "socket.keepalive.enable": True,
    "reconnect.backoff.ms": 50,
    # librdkafka's own 10 s would be 10 s of silence after an outage.
    "reconnect.backoff.max.ms": 1_000,
    # Telemetry that nobody reads, which would take a place among the requests in flight.
    "enable.metrics.push": False,
    # The publisher and the consumer say themselves, once, that no broker is in reach.
    "log_level": 2,
}
KAFKA_CONSUMER_GROUP = SITE.kafka_consumer_group
KAFKA_GROUP_INSTANCE_ID = SITE.kafka_group_instance_id

# --- Challenge service ----------------------------------------------------------------
CHALLENGE_SERVICE = {
    "url": SITE.challenge_service_url,
    "token_url": SITE.challenge_service_token_url,
    "client_id": SITE.challenge_service_client_id,
    "client_secret": SITE.challenge_service_client_secret.get_secret_value(),
    "audience": SITE.challenge_service_audience,
}
# What stands in for it in mock mode: called with `start`, returns its challenges.
CHALLENGE_SAMPLES = "autopilot_site.demo.challenges"

# --- django-q2 ------------------------------------------------------------------------
# A lane publishes for at most its budget and one attempt, and may have to search the
# topic first; django-q2's own alarm is only the net under that.
Q_TASK_TIMEOUT_SECONDS = SCHEDULER.job_timeout // 1000 + 60
Q_CLUSTER = {
    "name": "autopilot",
    "orm": "default",
    "broker_class": "scheduling.adapters.due_broker.DueBroker",
    "workers": SITE.cluster_workers,
    "queue_limit": SITE.cluster_workers,
    "bulk": 1,
    "timeout": Q_TASK_TIMEOUT_SECONDS,
    # A task is locked from its hand-over on: it must never be handed out again while
    # it may still run or wait (see scheduling.checks).
    "retry": 2 * Q_TASK_TIMEOUT_SECONDS + 30,
    "max_attempts": 5,
    "ack_failures": False,
    "catch_up": False,
    "recycle": 100_000,
    # Tasks that went well leave no row: django-q2 would read all of these rows when
    # another one fails, and reading them runs whatever somebody has written there.
    "save_limit": -1,
    "poll": 0.2,
    # Firing and housekeeping have their own timers in the due-broker; django-q2's
    # statistics would cost two cache writes a second for pages nobody has.
    "scheduler": False,
    "cache": "none",
    "log_level": "WARNING",
}
# The periodic tasks and how often each runs, over all hosts together.
CHORES = {
    "scheduling.tasks.clean_up": SCHEDULER.period("cleanup_interval"),
    "scheduling.tasks.flush_tokens": timedelta(hours=1),
    "scheduling.tasks.send_outgoing": timedelta(seconds=10),
    "scheduling.tasks.forget_old_answers": timedelta(hours=1),
    "scheduling.tasks.forget_old_batches": timedelta(hours=1),
    "scheduling.tasks.forget_old_rows": timedelta(hours=1),
    "recovery.tasks.expire_overdue": timedelta(seconds=60),
    "autopilot_site.tasks.settle_totals": timedelta(seconds=10),
}
if SITE.challenge_service_url or RECOVERY.challenge_service_mock_mode:
    CHORES["scheduling.tasks.read_marked_challenges"] = timedelta(seconds=5)
# What runs in a process of its own beside each cluster: called with an event that says
# when to stop.
CLUSTER_COMPANIONS = [
    "scheduling.adapters.heartbeat.attend",
    *(["recovery.caretaker.attend"] if RECOVERY.enabled else []),
    "scheduling.sealer.attend",
    "autopilot_site.verification.watch.attend",
]
# Who is told of trouble, and from when on an overdue job is some.
ALERTS: dict[str, Any] = {
    "urls": SITE.autopilot_alert_urls.get_secret_value().split(),
    "notifiers": [
        path.strip() for path in SITE.autopilot_alert_notifiers.split(",") if path.strip()
    ],
    "overdue_seconds": SITE.autopilot_alert_overdue_seconds,
}
if ALERTS["urls"] or ALERTS["notifiers"]:
    CLUSTER_COMPANIONS.append("autopilot_site.alerts.companion.attend")
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "none": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
}

# --- API ------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["scheduling.api.authentication.BearerToken"],
    "DEFAULT_PERMISSION_CLASSES": ["scheduling.api.permissions.RolePermission"],
    "DEFAULT_THROTTLE_CLASSES": ["scheduling.api.throttles.UserThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["scheduling.api.parsers.StrictJsonParser"],
    "DEFAULT_SCHEMA_CLASS": "scheduling.api.schema.ApiSchema",
    "EXCEPTION_HANDLER": "scheduling.api.errors.problem_response",
    # `?format=` is no parameter of ours but where a path says so.
    "URL_FORMAT_OVERRIDE": None,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
API_THROTTLE_USER = SITE.api_throttle_user
API_THROTTLE_TOKEN = SITE.api_throttle_token
SIMPLE_JWT = {
    # The only algorithm accepted, whatever a token says of itself; the keys that verify
    # are scheduling.api.own_tokens's.
    "ALGORITHM": "HS256",
    "SIGNING_KEY": JWT_SIGNING_KEY,
    "ISSUER": "autopilot",
    "AUDIENCE": "autopilot",
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=5),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=1),
    "ROTATE_REFRESH_TOKENS": True,
    "BLACKLIST_AFTER_ROTATION": True,
    "CHECK_REVOKE_TOKEN": True,
    "TOKEN_OBTAIN_SERIALIZER": "scheduling.api.tokens.RolesTokenSerializer",
}
SPECTACULAR_SETTINGS = {
    "PREPROCESSING_HOOKS": ["scheduling.api.token_views.only_what_answers"],
    "TITLE": "Autopilot",
    "DESCRIPTION": """Schedule, follow and override the timed transitions of challenges.

**First** ask `auth/token/` for an `access` token, with a name and a password; every other
request brings it along as `Authorization: Bearer …`. Where an outside issuer gives the
tokens, bring one of its. All paths end with a slash.

**Bodies** are one JSON object in UTF-8, uncompressed, of at most 256 KiB (4 MiB for many
transitions at once and for adjustments) and 64 levels. Members and query parameters that
are unknown are refused by name. Ids are positive integers, or UUIDs as strings. Instants
are ISO 8601 with `Z` or an offset; in an address a plus sign is written `%2B`. An
`X-Request-Id` of yours is kept in the answer, the log and the audit.

**Errors** are problems (RFC 9457): `code` is for programs, `detail` for people, and
`errors` names each field that is wrong. After 429 and 503 wait for `Retry-After`. A method
that a path does not have is 405, `method_not_allowed`, with those that it has in `Allow`.

**To ask again** after a lost answer, give POST and PATCH an `Idempotency-Key`. **To change
a job only as you have seen it,** send its `ETag` as `If-Match`.
""",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    # An update's shape has every field optional by itself.
    "COMPONENT_SPLIT_PATCH": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "scheduling.api.schema.close_request_bodies",
        "scheduling.api.schema.move_examples",
    ],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "TransitionStatusEnum": "scheduling.domain.lifecycle.TransitionStatus",
        "TransitionStateEnum": "scheduling.domain.lifecycle.TransitionKind",
    },
}
# Bodies over this are refused before they are read into memory (contract, section 4).
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
# The admin's overrides take 10,000 rows, each named by a field of its own.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 11_000

# --- Log-ins --------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = [
    # Knows no users: it refuses whoever has failed too often.
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
# One address that guesses at one name is locked out; the same name from elsewhere isn't,
# so that nobody can lock another one out.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=5)
# Who asks again while locked out waits no longer for it: Retry-After holds.
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "scheduling.api.client_address.counted_address"
AXES_USERNAME_CALLABLE = "scheduling.api.tokens.counted_name"
AXES_LOCKOUT_CALLABLE = "autopilot_site.admin_site.locked_out"
# The audit has every log-in; axes only counts.
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
# How many log-ins one address may try at the admin.
ADMIN_THROTTLE_LOG_IN = "30/min"
TRUST_PROXY = SITE.trust_proxy

# --- Admin ----------------------------------------------------------------------------
# Who signs in at the log-in page itself is led home.
LOGIN_REDIRECT_URL = "admin:index"
# How late is late: the line in the home page's histogram.
AUTOPILOT_LATENESS_SLO_MS = SITE.autopilot_lateness_slo_ms
UNFOLD = {
    "SITE_TITLE": "Autopilot",
    "SITE_HEADER": "Autopilot",
    "SITE_ICON": lambda request: static("autopilot/icon.svg"),
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda request: static("autopilot/icon.svg"),
        }
    ],
    # No link to a site beside the admin: there is none for people.
    "SITE_URL": None,
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": [
        lambda request: static("autopilot/admin.css"),
        lambda request: static("autopilot/pages.css"),
    ],
    "SCRIPTS": [lambda request: static("autopilot/admin.js")],
}

# --- Web ------------------------------------------------------------------------------
ALLOWED_HOSTS = [host.strip() for host in SITE.allowed_hosts.split(",") if host.strip()]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
SECURE_SSL_REDIRECT = SITE.secure_ssl_redirect
# Who probes and scrapes a process speaks to it past the proxy.
SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^health(/[a-z]+)?$", r"^metrics$"]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SITE.secure_ssl_redirect
# A working day: a sign-in at the admin ends then, however much it was used.
SESSION_COOKIE_AGE = 12 * 60 * 60
SECURE_HSTS_SECONDS = 31_536_000 if SITE.secure_ssl_redirect else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = SITE.secure_ssl_redirect
if SITE.trust_proxy:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
X_FRAME_OPTIONS = "DENY"
# What a page of ours may load: files of this host. Nothing inline runs unless the page
# names its nonce (`request.csp_nonce`). Swagger UI's icons are data: addresses.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [csp.NONE],
        "script-src": [csp.SELF, csp.NONCE],
        "style-src": [csp.SELF, csp.NONCE],
        "img-src": [csp.SELF, "data:"],
        "font-src": [csp.SELF],
        "connect-src": [csp.SELF],
        "form-action": [csp.SELF],
        "base-uri": [csp.NONE],
        "frame-ancestors": [csp.NONE],
    }
}
STATIC_URL = "static/"
# Serves straight from the packages, so that no step is needed before the first start;
# there is no STATIC_ROOT that could be missing or stale.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
LANGUAGE_CODE = "en-us"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

# --- Traces ---------------------------------------------------------------------------
TRACING = SITE.autopilot_tracing
if TRACING and find_spec("opentelemetry") is None:
    raise ImproperlyConfigured(
        "AUTOPILOT_TRACING=1: the packages for it are missing; install them with "
        "`uv sync --frozen --extra otel`"
    )

# --- Logs -----------------------------------------------------------------------------
# Whatever a neighbour's error quotes: none of these is ever written.
keep_secret(
    [
        SECRET_KEY,
        JWT_SIGNING_KEY,
        *JWT_VERIFYING_KEYS,
        str(DATABASES["default"].get("PASSWORD") or ""),
        SITE.kafka_sasl_password.get_secret_value(),
        SITE.kafka_ssl_key_password.get_secret_value(),
        SITE.challenge_service_client_secret.get_secret_value(),
        *(address.partition("://")[2] for address in ALERTS["urls"]),
    ]
)
_LEVEL = "DEBUG" if SCHEDULER.enable_debug_logging else SITE.log_level
_SHARED_PROCESSORS: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    add_ids,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "console": {
            "()": "scheduling.log_context.ConsoleFormatter",
            "format": "{asctime} {levelname:<8} {name}: {message}",
            "style": "{",
        },
        "json": {
            "()": "scheduling.log_context.JsonFormatter",
            "foreign_pre_chain": _SHARED_PROCESSORS,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        },
    },
    "filters": {"context": {"()": "scheduling.log_context.ContextFilter"}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": SITE.log_format,
            "filters": ["context"],
        }
    },
    "root": {"handlers": ["stderr"], "level": SITE.log_level},
    "loggers": {
        "autopilot": {"level": _LEVEL},
        # Without Django's own handlers, which would write each line a second time.
        "django": {"handlers": []},
        "django-q": {"level": "WARNING"},
        # It tells of each message, and quotes addresses.
        "apprise": {"level": "CRITICAL"},
        # It tells of each request.
        "httpx2": {"level": "WARNING"},
    },
}
