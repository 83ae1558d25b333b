"""The environment: every variable outside SCHEDULER_* and RECOVERY_*, read and checked.

A bad value stops the start with the variable's name, the value and what is allowed
(contract, section 10). Every secret NAME may also come as NAME_FILE.
"""

import os
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from django.core.exceptions import ImproperlyConfigured
from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

LEAST_KEY_BYTES = 32
SECRETS = (
    "SECRET_KEY",
    "JWT_SIGNING_KEY",
    "DATABASE_URL",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_SSL_KEY_PASSWORD",
)
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
        "required unless DEBUG is on.",
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
        "", description="SASL mechanism."
    )
    kafka_sasl_username: str = Field("", description="SASL user.")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="SASL password.")
    kafka_ssl_ca_location: str = Field("", description="CA certificate file.")
    kafka_ssl_certificate_location: str = Field("", description="Client certificate.")
    kafka_ssl_key_location: str = Field("", description="Client key file.")
    kafka_ssl_key_password: SecretStr = Field(
        SecretStr(""), description="Password of the client key."
    )
    kafka_client_id: str = Field("autopilot", description="Name shown to the brokers.")
    kafka_consumer_group: str = Field(
        "autopilot-group", description="Consumer group of consume_events."
    )
    secure_ssl_redirect: bool = Field(
        default=False,
        description="Redirect to HTTPS; HSTS and secure cookies come with it.",
    )
    trust_proxy: bool = Field(
        default=False, description="Honour a proxy's X-Forwarded-Proto."
    )
    cluster_workers: int = Field(
        2, ge=1, le=64, description="Publishing workers of one qcluster."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least level written."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Lines for people, or one JSON object a line."
    )


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
    value = "…" if name in SECRETS else repr(problem["input"])
    values = allowed(kind.model_fields[field_name])
    return f"{name}={value}: {problem['msg']}; allowed: {values}"


def allowed(field: FieldInfo) -> str:
    """Return what values are allowed."""
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
