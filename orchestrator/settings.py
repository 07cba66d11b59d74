"""Settings: frozen, read once from ``SAEFORGE_*`` environment variables, each documented by its docstring."""

import os
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.errors import SettingsError
from orchestrator.usage import HALF_LIFE_S

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_COMMON = SettingsConfigDict(
    env_prefix="SAEFORGE_", frozen=True, extra="ignore", use_attribute_docstrings=True, populate_by_name=True
)


def default_home() -> Path:
    return Path.home() / ".saeforge"


class ClientSettings(BaseSettings):
    """What the client, the CLI and the dashboard read."""

    model_config = _COMMON

    home: Path = Field(default_factory=default_home)
    """Directory of everything saeforge keeps; clients on the same machine find the API key there."""
    url: str = Field(
        default="",
        validation_alias=AliasChoices("SAEFORGE_URL", "GPU_ORCHESTRATOR_URL", "url"),
    )
    """Where the orchestrator answers; http://127.0.0.1:<SAEFORGE_PORT> when empty."""
    api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("SAEFORGE_API_KEY", "GPU_ORCHESTRATOR_API_KEY", "api_key"),
    )
    """API key; when empty, the one the orchestrator generated in <home>/api-key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port of the orchestrator's API."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Longest wait for one HTTP answer, in seconds."""
    ca_file: Path | None = None
    """Certificates, in PEM, that clients trust instead of the system's own, e.g. of a proxy that signed for itself."""

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def key_file(self) -> Path:
        return self.home / "api-key"

    @property
    def base_url(self) -> str:
        return (self.url or f"http://127.0.0.1:{self.port}").rstrip("/")

    def find_api_key(self) -> str | None:
        """The key to use: the one given, else the one on disk, else none."""
        if self.api_key and self.api_key.get_secret_value():
            return self.api_key.get_secret_value()
        try:
            return self.key_file.read_text().strip() or None
        except OSError:
            return None


class Settings(ClientSettings):
    """What the orchestrator reads, and what ``saeforge up`` passes on to the dashboard."""

    host: str = "127.0.0.1"
    """Address the API listens on. Any other than loopback requires auth to be on."""
    auth: Literal["on", "off"] = "on"
    """Whether a key is asked for; "off" is accepted on loopback only."""
    dashboard_host: str = "127.0.0.1"
    """Address the dashboard listens on. Whoever reaches it acts with the orchestrator's key."""
    dashboard_port: int = Field(default=8501, ge=0, le=65535)
    """Port of the dashboard."""
    public_url: str = ""
    """Where browsers reach the API, when it differs from this machine's own address, e.g. behind a proxy."""
    tensorboard_url: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """Where browsers reach a TensorBoard over <home>/runs; jobs that write for it then link to it."""
    allowed_origins: str = ""
    """Web origins beside the dashboard's own that may call the API from a browser, separated by commas."""
    allowed_hosts: str = ""
    """Names that the API answers to beside loopback's, SAEFORGE_HOST, the one in SAEFORGE_PUBLIC_URL, and bare
    addresses; separated by commas. "*.example.org" allows all below, "*" any."""
    trusted_proxies: str = ""
    """Addresses of the proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, separated by commas."""
    rate_limit_per_s: float = Field(default=100.0, ge=0)
    """Requests a second that each key, and each address without one, may make; 0 for any number. The machine's own key
    is not limited."""
    auth_failures_per_minute: float = Field(default=30.0, gt=0)
    """Wrong keys a minute that an address may present before its credentials are no longer looked at."""
    jwt_secret: SecretStr | None = None
    """Secret that signs JSON Web Tokens (HS256), at least 32 bytes; tokens are off when this and the file are empty."""
    jwt_secret_file: Path | None = None
    """File that holds it, instead."""
    jwt_issuer: str = ""
    """Issuer that tokens have to name; any when empty."""
    jwt_audience: str = ""
    """Audience that tokens have to name; any when empty."""
    secrets_tmpfs: Path | None = None
    """Directory in memory where running jobs find their secrets; under /dev/shm when empty."""
    allowed_roots: str = ""
    """Directories beside <home>/models, <home>/datasets and <home>/saes that jobs may read, separated by colons."""
    executor: Literal["auto", "docker", "process"] = "auto"
    """Where jobs run; auto takes Docker where it answers, is installed or has run jobs of this home, and lets them wait
    while it is down; elsewhere plain processes without isolation."""
    worker_image: str = "saeforge-worker:latest"
    """Image of saeforge's own worker."""
    host_home: str = ""
    """<home> as the container engine sees it, when the orchestrator itself runs in a container; found by inspecting
    its own mounts when empty."""
    container_user: str = ""
    """uid:gid of job containers; the orchestrator's own when empty, or 10001:10001 when that is root."""
    cpus: float = Field(default_factory=lambda: float(len(os.sched_getaffinity(0))), gt=0)
    """CPU cores that all running jobs may use together; all cores of the machine when empty."""
    memory_mb: int | None = Field(default=None, ge=64)
    """MiB of memory that the limits of all running jobs may add up to; the machine's less a tenth when empty."""
    gpu_margin_mb: int = Field(default=512, ge=0)
    """MiB of every shared GPU that are left alone."""
    gpu_outside_mb: int = Field(default=2048, ge=0)
    """MiB of a GPU's memory that a desktop or the driver may use. Where more is used, and by no job, no job gets it
    whole."""
    half_life_s: float = Field(default=HALF_LIFE_S, gt=0)
    """Seconds after which what an owner used counts half when owners take turns."""
    gpu_hour_price: float = Field(default=0.0, ge=0)
    """What an hour of one GPU costs, in a currency of your choice: estimates then tell what a job would cost."""
    preempt_after_s: float = Field(default=600.0, ge=0)
    """Seconds a job may run before it can be asked to make room for one of higher priority."""
    grace_s: float = Field(default=60.0, ge=0)
    """Seconds a job gets to write its checkpoint before it is killed."""
    pull_timeout_s: float = Field(default=3600.0, gt=0)
    """Seconds that pulling an image may take before its job fails."""
    orphan_grace_s: float = Field(default=600.0, ge=0)
    """Seconds after which a container of this home that belongs to no known job is removed."""
    poll_s: float = Field(default=0.25, gt=0, le=60)
    """Seconds between looks at what runs, where the engine does not tell of changes by itself."""
    sample_s: float = Field(default=2.0, gt=0, le=3600)
    """Seconds between looks at what running jobs use of CPU, memory and GPUs."""
    min_free_mb: int = Field(default=2048, ge=0, le=1_073_741_824)
    """MiB that must be free under <home> for a new attempt to start; what runs goes on."""
    activation_cache_mb: int = Field(default=102_400, ge=0)
    """Most that the activation cache in <home>/cache/activations may take, in MiB: what was used longest ago goes
    first, and 4 GiB of the disk are left free in any case. 0 for no cache."""
    log_quota_mb: int = Field(default=1024, ge=0)
    """Most that the log of one attempt may take on disk, in MiB: beyond it the oldest lines but the first ones are
    freed, and a marker tells how many bytes. No limit when 0."""
    viewer_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that a viewer of a stream may read nothing of what waits for it before it is let go."""
    viewer_lag_mb: int = Field(default=8, ge=1)
    """How far, in MiB, a viewer that asked for ?skip=true may stay behind a log before it is moved forward."""
    event_history: int = Field(default=5000, ge=100)
    """Newest metrics, progress and message events kept of each job; all other events stay as long as their job, and
    the figures themselves stay in the metrics."""
    archive_after_days: float = Field(default=30.0, ge=0, le=36_500)
    """Days after which an ended job is archived: left out of lists, its log packed, only its newest checkpoint and its
    artifacts kept. 0 for never."""
    backup_every_h: float = Field(default=24.0, ge=0, le=8_784)
    """Hours between backups of the database into <home>/backups. 0 for none."""
    backup_keep: int = Field(default=7, ge=1, le=10_000)
    """Backups kept there; older ones are deleted."""
    webhook_allow: str = ""
    """Addresses, networks and host names beside the public internet that webhooks may be sent to, separated by commas,
    e.g. "10.1.2.3,192.168.7.0/24,hooks.internal"."""
    webhook_timeout_s: float = Field(default=10.0, gt=0, le=300)
    """Longest wait for a webhook's receiver, in seconds."""
    webhook_backoff_s: float = Field(default=5.0, gt=0, le=3600)
    """First pause before a webhook is tried again, in seconds; it doubles every time, up to an hour."""
    webhook_max_tries: int = Field(default=12, ge=1, le=1000)
    """Tries in a row that may fail before a webhook is disabled; 12 take some two hours."""
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    """Largest request body accepted."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the orchestrator itself logs; debug includes every request."""
    log_format: Literal["text", "json"] = "text"
    """Form of the orchestrator's own log: for people, or one JSON object a line."""

    @model_validator(mode="after")
    def _public_needs_auth(self) -> Self:
        if self.auth == "off" and self.host not in LOOPBACK:
            raise ValueError(
                f"SAEFORGE_AUTH: refusing to listen on {self.host} without auth; "
                "set SAEFORGE_AUTH=on or SAEFORGE_HOST=127.0.0.1"
            )
        return self

    @property
    def database(self) -> Path:
        return self.home / "saeforge.db"

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def revoked_keys(self) -> Path:
        return self.home / "revoked-keys"

    @property
    def backups(self) -> Path:
        return self.home / "backups"

    @property
    def webhook_secrets(self) -> Path:
        return self.home / "webhooks"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def datasets(self) -> Path:
        return self.home / "datasets"

    @property
    def saes(self) -> Path:
        return self.home / "saes"

    @property
    def activation_cache(self) -> Path:
        return self.home / "cache" / "activations"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that the API answers to because somebody said so."""
        return _listed(self.allowed_hosts)

    @property
    def proxies(self) -> tuple[str, ...]:
        """Addresses whose forwarded headers are believed."""
        return _listed(self.trusted_proxies)

    def find_jwt_secret(self) -> str | None:
        """The secret that signs tokens, if there is one.

        Raises:
            SettingsError: the file that should hold it cannot be read.
        """
        if self.jwt_secret and self.jwt_secret.get_secret_value():
            return self.jwt_secret.get_secret_value()
        if self.jwt_secret_file is None:
            return None
        try:
            return self.jwt_secret_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"SAEFORGE_JWT_SECRET_FILE: {self.jwt_secret_file} cannot be read ({error})",
                field="SAEFORGE_JWT_SECRET_FILE",
                suggestion="name a file with a secret in it, or leave it empty",
            ) from None

    @property
    def secrets_memory(self) -> Path:
        """Directory in memory under which running jobs find their secrets."""
        return self.secrets_tmpfs or Path(f"/dev/shm/saeforge-{os.getuid()}")

    @property
    def roots(self) -> tuple[Path, ...]:
        """Directories whose contents a job may name as input."""
        extra = tuple(Path(part).expanduser().absolute() for part in self.allowed_roots.split(":") if part)
        return (self.models, self.datasets, self.saes, *extra)

    @property
    def origins(self) -> tuple[str, ...]:
        """Web origins that may call the API from a browser."""
        own = [f"http://{name}:{self.dashboard_port}" for name in ("127.0.0.1", "localhost")]
        return (*own, *_listed(self.allowed_origins))


def _listed(text: str) -> tuple[str, ...]:
    """The items of a list that is separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


Kind = TypeVar("Kind", bound=ClientSettings)


def read_settings(kind: type[Kind], **given: Any) -> Kind:
    """Settings from the environment, with those ``given`` (and not None) in their place.

    Raises:
        SettingsError: one of them is not valid; its name and the reason are in the message.
    """
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise SettingsError(first["msg"].removeprefix("Value error, ")) from None
        where = str(first["loc"][0]).upper()
        name = where if where.startswith(("SAEFORGE_", "GPU_ORCHESTRATOR_")) else f"SAEFORGE_{where}"
        raise SettingsError(f"{name}: {first['msg']}", field=name) from None
