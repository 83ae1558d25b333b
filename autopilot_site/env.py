"""The environment: every variable outside SCHEDULER_* and RECOVERY_*, read and checked.

A bad value stops the start with the variable's name, the value and what is allowed
(contract, section 10). Every secret NAME may also come as NAME_FILE.
"""

import ipaddress
import os
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

LEAST_KEY_BYTES = 32
SECRETS = (
    "SECRET_KEY",
    "JWT_SIGNING_KEY",
    "JWT_VERIFYING_KEYS",
    "DATABASE_URL",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_SSL_KEY_PASSWORD",
    "CHALLENGE_SERVICE_CLIENT_SECRET",
    "AUTOPILOT_ALERT_URLS",
)
# A number of requests in a second, minute, hour or day.
RATE_FORM = r"^[1-9][0-9]{0,8}/(s|sec|second|m|min|minute|h|hour|d|day)$"
RATES_ALLOWED = "N/sec, N/min, N/hour, N/day, with N from 1"
# What Kafka takes as a group.instance.id.
GROUP_INSTANCE_FORM = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,248})?$"
GROUP_INSTANCE_ALLOWED = (
    "at most 249 of A-Z, a-z, 0-9, '.', '_' and '-'; the first a letter or digit"
)
# A broker as librdkafka takes it; a protocol before it is allowed and not looked at.
_BROKER = re.compile(
    r"(?:[A-Za-z_]+://)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_LARGEST_PORT = 65_535
ADDRESS_ALLOWED = "http://HOST/PATH or https://HOST/PATH"
Settings = TypeVar("Settings", bound=BaseSettings)


class SiteSettings(BaseSettings):
    """Neighbours, secrets and doors of the whole site."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    debug: bool = Field(
        default=False,
        description="Django's debug mode; `up` without DATABASE_URL turns it on.",
    )
    secret_key: SecretStr = Field(
        SecretStr(""), description="Django's secret; required unless DEBUG is on."
    )
    jwt_signing_key: SecretStr = Field(
        SecretStr(""),
        description="Signs the API's tokens: at least 32 bytes, not SECRET_KEY; "
        "required unless DEBUG is on or there is an outside issuer.",
    )
    jwt_verifying_keys: SecretStr = Field(
        SecretStr(""),
        description="Older signing keys whose tokens are accepted still, by commas; each "
        "at least 32 bytes. An old key may go a day after its last use.",
    )
    jwt_issuer: str = Field(
        "",
        description="`iss` of an outside issuer's tokens, exactly; with it, own tokens "
        "are neither given nor accepted. JWT_AUDIENCE and JWT_JWKS_URL belong to it.",
    )
    jwt_audience: str = Field(
        "", description="`aud` that the outside issuer's tokens must have."
    )
    jwt_jwks_url: str = Field(
        "",
        description="Where the outside issuer publishes its keys: https (with DEBUG on, "
        "http on this host too); RS256 alone is accepted.",
    )
    jwt_roles_claim: str = Field(
        "roles",
        min_length=1,
        description="Claim of the outside issuer's tokens that holds the roles viewer, "
        "operator, admin; others in it are ignored.",
    )
    allowed_hosts: str = Field(
        "localhost,127.0.0.1,[::1]", description="Host names served, by commas."
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        description="postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite:///PATH; "
        "empty: the file autopilot.sqlite3.",
    )
    kafka_bootstrap_servers: str = Field(
        "", description="Brokers, by commas; empty: the embedded one on this host."
    )
    kafka_embedded_port: int = Field(
        19_092,
        ge=1,
        le=65_535,
        description="Port of the embedded broker on 127.0.0.1; `up --kafka-port` sets it.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = (
        Field("PLAINTEXT", description="How to speak to the brokers.")
    )
    kafka_sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "",
        validate_default=True,
        description="SASL mechanism, which SASL_PLAINTEXT and SASL_SSL need.",
    )
    kafka_sasl_username: str = Field("", description="SASL user.")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="SASL password.")
    kafka_ssl_ca_location: str = Field("", description="CA certificate file.")
    kafka_ssl_certificate_location: str = Field("", description="Client certificate.")
    kafka_ssl_key_location: str = Field("", description="Client key file.")
    kafka_ssl_key_password: SecretStr = Field(
        SecretStr(""), description="Password of the client key."
    )
    kafka_client_id: str = Field(
        "autopilot", min_length=1, description="Name shown to the brokers."
    )
    kafka_consumer_group: str = Field(
        "autopilot-group", min_length=1, description="Consumer group of consume_events."
    )
    kafka_group_instance_id: str = Field(
        "",
        pattern=GROUP_INSTANCE_FORM,
        description="Name of this consumer in its group, no other's at the same time: "
        "started again within 6 s it has its partitions back at once. Empty: a new "
        "member each time, whose partitions the others have to wait for.",
        json_schema_extra={"allowed": GROUP_INSTANCE_ALLOWED},
    )
    challenge_service_url: str = Field(
        "",
        description="Where the Challenge API is, such as https://api.example.com/v6; "
        "empty: challenges come by record only.",
        json_schema_extra={"allowed": ADDRESS_ALLOWED},
    )
    challenge_service_client_id: str = Field(
        "", description="Client id of the OAuth2 client credentials."
    )
    challenge_service_client_secret: SecretStr = Field(
        SecretStr(""), description="Client secret of the OAuth2 client credentials."
    )
    challenge_service_audience: str = Field(
        "", description="Audience to ask a token for; empty: none is named."
    )
    challenge_service_token_url: str = Field(
        "",
        validate_default=True,
        description="Where tokens for the Challenge service are fetched; empty: it is "
        "asked without. The client id and secret belong to it.",
        json_schema_extra={"allowed": ADDRESS_ALLOWED},
    )
    secure_ssl_redirect: bool = Field(
        default=False,
        description="Redirect to HTTPS; HSTS and secure cookies come with it.",
    )
    trust_proxy: bool = Field(
        default=False,
        description="Honour a proxy's X-Forwarded-Proto, and the last hop of its "
        "X-Forwarded-For as the client's address.",
    )
    api_throttle_user: str = Field(
        "6000/min",
        pattern=RATE_FORM,
        description="How many requests one user may make of the API.",
        json_schema_extra={"allowed": RATES_ALLOWED},
    )
    api_throttle_token: str = Field(
        "30/min",
        pattern=RATE_FORM,
        description="How many log-ins one address may try at the API.",
        json_schema_extra={"allowed": RATES_ALLOWED},
    )
    cluster_workers: int = Field(
        2, ge=1, le=64, description="Publishing workers of one qcluster."
    )
    autopilot_alert_urls: SecretStr = Field(
        SecretStr(""),
        description="Who is told of trouble: addresses that apprise knows, such as "
        "slack://… or mailto://…, by spaces.",
        json_schema_extra={"allowed": "SCHEME://… by spaces"},
    )
    autopilot_alert_notifiers: str = Field(
        "",
        pattern=r"^$|^\s*[A-Za-z_][\w]*(\.[A-Za-z_]\w*)+(\s*,\s*[A-Za-z_]\w*(\.[A-Za-z_]\w*)+)*\s*$",
        description="Functions of one's own that are told, by dotted path and commas.",
        json_schema_extra={"allowed": "package.module.function by commas"},
    )
    autopilot_alert_overdue_seconds: int = Field(
        60,
        ge=1,
        le=86_400,
        description="From how many seconds on an overdue job is told of.",
    )
    autopilot_lateness_slo_ms: int = Field(
        1_000,
        ge=1,
        le=3_600_000,
        description="How late, in ms, a transition may be published and still be within "
        "the objective that the admin shows.",
    )
    autopilot_tracing: bool = Field(
        default=False,
        description="Make traces with OpenTelemetry, whose own variables (OTEL_*) say "
        "where they go. Needs the extra `otel`.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least level written."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Lines for people, or one JSON object a line."
    )

    @field_validator("autopilot_alert_urls")
    @classmethod
    def _check_alert_urls(cls, value: SecretStr) -> SecretStr:
        """Refuse what is no address at all; the service's own rules are apprise's.

        Raises:
            ValueError: One has no scheme.
        """
        if any("://" not in one for one in value.get_secret_value().split()):
            raise ValueError("each must begin with a scheme and ://")
        return value

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _check_brokers(cls, value: str) -> str:
        """Refuse a list of brokers that can't be one: librdkafka only says it later.

        Raises:
            ValueError: An entry is no host with or without a port.
        """
        for broker in value.split(",") if value else []:
            found = _BROKER.fullmatch(broker.strip())
            if not found or not 1 <= int(found["port"] or 1) <= _LARGEST_PORT:
                raise ValueError("each must be HOST or HOST:PORT, by commas")
        return value

    @field_validator(
        "kafka_ssl_ca_location", "kafka_ssl_certificate_location", "kafka_ssl_key_location"
    )
    @classmethod
    def _check_readable(cls, value: str) -> str:
        """Refuse a path under which there is nothing to read; empty is none at all.

        Raises:
            ValueError: There is nothing, or it may not be read.
        """
        if value and not os.access(value, os.R_OK):
            raise ValueError("must be a file that exists and may be read")
        return value

    @field_validator("kafka_sasl_mechanism")
    @classmethod
    def _check_mechanism(cls, value: str, info: ValidationInfo) -> str:
        """Refuse a protocol that logs in by no mechanism.

        Raises:
            ValueError: It is missing.
        """
        protocol = info.data.get("kafka_security_protocol", "")
        if protocol.startswith("SASL") and not value:
            raise ValueError(f"must be set with KAFKA_SECURITY_PROTOCOL={protocol}")
        return value

    @field_validator("challenge_service_url", "challenge_service_token_url")
    @classmethod
    def _check_address(cls, value: str) -> str:
        """Refuse what is no plain address; empty is none at all.

        Raises:
            ValueError: Another scheme, no host, a bad port, or parts that don't belong.
        """
        if value:
            try:
                parts = urlsplit(value)
                # Reading it is what refuses a port that is none.
                parts.port  # noqa: B018
            except ValueError:
                raise ValueError("must be an address") from None
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError("must begin with http:// or https:// and a host")
            if "@" in parts.netloc or parts.query or parts.fragment:
                raise ValueError("must have no user, query or fragment")
            if any(not c.isascii() or not c.isprintable() or c == " " for c in value):
                raise ValueError("must have printable ASCII characters only")
        return value

    @field_validator("challenge_service_token_url")
    @classmethod
    def _check_credentials(cls, value: str, info: ValidationInfo) -> str:
        """Refuse a token's address without credentials, and credentials without it.

        Raises:
            ValueError: Some are missing.
        """
        client_id = bool(info.data.get("challenge_service_client_id"))
        secret = info.data.get("challenge_service_client_secret")
        has_secret = secret is not None and bool(secret.get_secret_value())
        if (bool(value), client_id, has_secret) not in {(True,) * 3, (False,) * 3}:
            raise ValueError(
                "CHALLENGE_SERVICE_TOKEN_URL, CHALLENGE_SERVICE_CLIENT_ID and "
                "CHALLENGE_SERVICE_CLIENT_SECRET go together"
            )
        return value


def prepare_first_start(
    arguments: list[str], environ: dict[str, str] | os._Environ[str]
) -> None:
    """Turn DEBUG on for `up` without a database of its own (contract, section 9)."""
    if arguments[1:2] == ["up"] and not environ.get("DATABASE_URL"):
        environ.setdefault("DEBUG", "1")


def load_secret_files(environ: dict[str, str] | os._Environ[str]) -> None:
    """Put the content of each NAME_FILE into NAME, for the secrets.

    Raises:
        ImproperlyConfigured: The file can't be read, or both forms are set.
    """
    for name in SECRETS:
        path = environ.get(f"{name}_FILE")
        if not path:
            continue
        if environ.get(name):
            raise ImproperlyConfigured(f"set {name} or {name}_FILE, not both")
        try:
            environ[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ImproperlyConfigured(
                f"{name}_FILE={path!r}: can't be read: {error}"
            ) from None


def verifying_keys(site: SiteSettings, *, secret_key: str) -> tuple[str, ...]:
    """Return the older signing keys whose tokens are accepted still.

    Raises:
        ImproperlyConfigured: One is too short, or is SECRET_KEY.
    """
    text = site.jwt_verifying_keys.get_secret_value()
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if any(len(key.encode()) < LEAST_KEY_BYTES or key == secret_key for key in keys):
        raise ImproperlyConfigured(
            f"JWT_VERIFYING_KEYS=…: each key must have at least {LEAST_KEY_BYTES} bytes "
            "and differ from SECRET_KEY; allowed: keys by commas"
        )
    return keys


def check_outside_issuer(site: SiteSettings) -> None:
    """Refuse an outside issuer that is named by halves, or whose keys anybody may forge.

    Raises:
        ImproperlyConfigured: Names the variable, its value and what is allowed.
    """
    values = {
        "JWT_ISSUER": site.jwt_issuer,
        "JWT_AUDIENCE": site.jwt_audience,
        "JWT_JWKS_URL": site.jwt_jwks_url,
    }
    if not any(values.values()):
        return
    missing = [name for name, value in values.items() if not value.strip()]
    if missing:
        raise ImproperlyConfigured(
            f"{', '.join(missing)}: an outside issuer needs {', '.join(values)} together"
        )
    if not _may_be_trusted(site.jwt_jwks_url, debug=site.debug):
        raise ImproperlyConfigured(
            f"JWT_JWKS_URL={site.jwt_jwks_url!r}: must be the https address of a key set, "
            "without a user; allowed: https://HOST/PATH, with DEBUG on also "
            "http://127.0.0.1:PORT/PATH"
        )


def _may_be_trusted(address: str, *, debug: bool) -> bool:
    """Tell whether nobody on the way can change what is read from an address."""
    try:
        parts = urlsplit(address)
        host, user = parts.hostname or "", parts.username
        # Reading it is what refuses a port that is none.
        parts.port  # noqa: B018
    except ValueError:
        return False
    if not host or user is not None or parts.fragment:
        return False
    if parts.scheme == "https":
        return True
    return parts.scheme == "http" and debug and _is_loopback(host)


def _is_loopback(host: str) -> bool:
    """Tell whether a host is this one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read(kind: type[Settings]) -> Settings:
    """Read one group of variables.

    Raises:
        ImproperlyConfigured: Names every bad variable, its value and what is allowed.
    """
    prefix = str(kind.model_config.get("env_prefix", ""))
    try:
        return kind()
    except ValidationError as error:
        lines = [_explain(problem, kind, prefix=prefix) for problem in error.errors()]
    raise ImproperlyConfigured("\n".join(lines))


def _explain(problem: Any, kind: type[BaseSettings], *, prefix: str) -> str:
    """Write one problem as `NAME=value: …, allowed: …`; a secret's value is kept."""
    field_name = str(problem["loc"][0]).lower().removeprefix(prefix.lower())
    name = (prefix + field_name).upper()
    # An address may have been given with a password in it.
    may_be_secret = name in SECRETS or "@" in str(problem["input"])
    value = "…" if may_be_secret else repr(problem["input"])
    values = allowed(kind.model_fields[field_name])
    return f"{name}={value}: {problem['msg']}; allowed: {values}"


def allowed(field: FieldInfo) -> str:
    """Return what values are allowed."""
    if isinstance(field.json_schema_extra, dict) and "allowed" in field.json_schema_extra:
        return str(field.json_schema_extra["allowed"])
    kind = _kind(field.annotation)
    if get_origin(kind) is Literal:
        return _choices(get_args(kind))
    if kind is bool:
        return "true, false"
    if kind in {int, float}:
        return _range(field)
    return "text"


def _kind(annotation: Any) -> Any:
    """Return the type that counts where a value may also be absent."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return next(a for a in get_args(annotation) if a is not type(None))
    return annotation


def _choices(values: Iterable[object]) -> str:
    """Return the values one may choose from."""
    return ", ".join(str(value) if value != "" else "empty" for value in values)


def _range(field: FieldInfo) -> str:
    """Return the range of a number."""
    least = [m.ge for m in field.metadata if hasattr(m, "ge")]
    most = [m.le for m in field.metadata if hasattr(m, "le")]
    return f"{least[0] if least else ''} to {most[0] if most else ''}".strip()
