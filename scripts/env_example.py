"""Writes ``compose/.env.example`` from the settings, so that it can never name a setting that is none.

python scripts/env_example.py
"""

from pathlib import Path

from pydantic.fields import FieldInfo

from orchestrator.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "compose" / ".env.example"

SET_BY_COMPOSE = {"host", "auth", "executor", "url", "dashboard_host"}
"""Settings that follow from running in containers."""
OWN_DEFAULTS = {"home": "/srv/saeforge", "secrets_tmpfs": "/dev/shm/saeforge"}
"""Defaults of Compose's own: a home directory has no meaning for services, and the engine has to see the same paths."""
COMPOSE_ONLY = {
    "SAEFORGE_PUBLISH_ADDRESS": (
        "127.0.0.1",
        "Address of this machine that the API's and the dashboard's ports are published on.",
    ),
    "SAEFORGE_DOCKER_SOCKET": ("/var/run/docker.sock", "The engine's socket on this machine."),
    "SAEFORGE_SERVICE_IMAGE": ("saeforge-service:latest", "Image of orchestrator and dashboard."),
    "SAEFORGE_TLS_NAME": ("localhost", "tls.yml: what browsers call this machine."),
    "SAEFORGE_TLS_DIR": ("./tls", "tls.yml: directory with cert.pem, key.pem and htpasswd."),
    "SAEFORGE_TLS_ADDRESS": ("0.0.0.0", "tls.yml: address of this machine that the proxy is published on."),
    "SAEFORGE_TLS_PORT": ("443", "tls.yml: port of it."),
    "SAEFORGE_PLAIN_PORT": ("80", "tls.yml: port that sends those without TLS there."),
    "SAEFORGE_PROXY_IMAGE": ("nginx:1.28-alpine", "tls.yml: image of the proxy."),
    "SAEFORGE_EDGE": (
        "172.31.250",
        "tls.yml: how the addresses between the proxy and the services begin.",
    ),
    "BASE_IMAGE": ("python:3.11-slim", "What the images are built on; scripts/base-image prints the one that is here."),
}
"""Variables that the compose file reads beside the settings: default and meaning."""


def _default(name: str, field: FieldInfo) -> str:
    if name in OWN_DEFAULTS:
        return OWN_DEFAULTS[name]
    return "" if field.default_factory or field.default is None else str(field.default)


def content() -> str:
    """The whole file."""
    lines = ["# Written by scripts/env_example.py from the settings. Copy it to .env and uncomment what is to differ."]
    entries = {
        f"SAEFORGE_{name.upper()}": (_default(name, field), field.description or "")
        for name, field in Settings.model_fields.items()
        if name not in SET_BY_COMPOSE
    }
    for name, (default, meaning) in (entries | COMPOSE_ONLY).items():
        lines += ["", *(f"# {line}" for line in meaning.splitlines()), f"#{name}={default}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(content())
