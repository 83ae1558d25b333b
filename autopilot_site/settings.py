"""Django's settings: one file; the environment decides what differs between hosts."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import environ
import structlog
from django.core.exceptions import ImproperlyConfigured

from autopilot_site.env import LEAST_KEY_BYTES, SiteSettings, load_secret_files, read
from scheduling.conf import RecoverySettings, SchedulerSettings

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Environment ----------------------------------------------------------------------
load_secret_files(os.environ)
SITE = read(SiteSettings)
SCHEDULER = read(SchedulerSettings)
RECOVERY = read(RecoverySettings)

# --- Secrets --------------------------------------------------------------------------
DEBUG = SITE.debug
# Only ever used with DEBUG on: every process of a first start must share it.
_DEVELOPMENT_KEY = "development-only-key-that-protects-nothing-at-all"
SECRET_KEY = SITE.secret_key.get_secret_value() or (_DEVELOPMENT_KEY if DEBUG else "")
JWT_SIGNING_KEY = SITE.jwt_signing_key.get_secret_value() or (
    f"jwt-{_DEVELOPMENT_KEY}" if DEBUG else ""
)
if not SECRET_KEY:
    raise ImproperlyConfigured("SECRET_KEY: is required unless DEBUG is on")
if len(JWT_SIGNING_KEY.encode()) < LEAST_KEY_BYTES or JWT_SIGNING_KEY == SECRET_KEY:
    raise ImproperlyConfigured(
        f"JWT_SIGNING_KEY=…: must have at least {LEAST_KEY_BYTES} bytes and differ from "
        "SECRET_KEY; it is required unless DEBUG is on"
    )

# --- Applications ---------------------------------------------------------------------
INSTALLED_APPS = [
    "autopilot_site.apps.AutopilotSiteConfig",
    "recovery.apps.RecoveryConfig",
    "scheduling.apps.SchedulingConfig",
    "autopilot_site.apps.RoleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_q",
    "django_filters",
    "rest_framework",
    "rest_framework_simplejwt.token_blacklist",
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
            ]
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
    "save_limit": 1_000,
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
    "recovery.tasks.expire_overdue": timedelta(seconds=60),
}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "none": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
}

# --- API ------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["scheduling.api.authentication.BearerToken"],
    "DEFAULT_PERMISSION_CLASSES": ["scheduling.api.permissions.RolePermission"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["scheduling.api.parsers.StrictJsonParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "scheduling.api.errors.problem_response",
    # `?format=` is no parameter of ours but where a path says so.
    "URL_FORMAT_OVERRIDE": None,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SIMPLE_JWT = {
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
    "TITLE": "Autopilot",
    "DESCRIPTION": "Schedule, follow and override the timed transitions of challenges.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
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
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SITE.secure_ssl_redirect
SECURE_HSTS_SECONDS = 31_536_000 if SITE.secure_ssl_redirect else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = SITE.secure_ssl_redirect
if SITE.trust_proxy:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
X_FRAME_OPTIONS = "DENY"
STATIC_URL = "static/"
# Serves straight from the packages, so that no step is needed before the first start;
# there is no STATIC_ROOT that could be missing or stale.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
LANGUAGE_CODE = "en-us"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

# --- Logs -----------------------------------------------------------------------------
_LEVEL = "DEBUG" if SCHEDULER.enable_debug_logging else SITE.log_level
_SHARED_PROCESSORS: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "console": {
            "format": "{asctime} {levelname:<8} {name}: {message}",
            "style": "{",
        },
        "json": {
            "()": "structlog.stdlib.ProcessorFormatter",
            "foreign_pre_chain": _SHARED_PROCESSORS,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        },
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": SITE.log_format}
    },
    "root": {"handlers": ["stderr"], "level": SITE.log_level},
    "loggers": {
        "autopilot": {"level": _LEVEL},
        # Without Django's own handlers, which would write each line a second time.
        "django": {"handlers": []},
        "django-q": {"level": "WARNING"},
    },
}
