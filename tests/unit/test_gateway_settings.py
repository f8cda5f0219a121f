"""The gateway refuses invalid settings at boot, names the variable, and hides secrets."""

from pathlib import Path

import pytest

from atelier.errors import BadInput
from services.gateway.settings import GatewaySettings


def test_defaults(tmp_path: Path) -> None:
    """Pinned on purpose: a changed default is a change for every operator."""
    settings = GatewaySettings.read({"ATELIER_HOME": str(tmp_path)})
    assert settings.database_url == f"sqlite:///{tmp_path / 'gateway.db'}"
    assert settings.model_dump(exclude={"home", "database_url"}) == {
        "triton_url": "127.0.0.1:8001",
        "kubernetes": False,
        "traffic": None,
        "model": "atelier",
        "host": "127.0.0.1",
        "port": 8080,
        "workers": 1,
        "log_level": "info",
        "body_limit": 256 * 1024,
        "prompt_limit": 4000,
        "max_images": 8,
        "max_steps": 150,
        "max_side": 2048,
        "memory": None,
        "picture_queue": 256,
        "picture_wait": 30.0,
        "request_timeout": 300.0,
        "shutdown_timeout": 30.0,
        "poll": 0.2,
    }


def test_addresses_are_normalised(tmp_path: Path) -> None:
    settings = GatewaySettings.read(
        {
            "ATELIER_HOME": str(tmp_path),
            "ATELIER_TRITON_URL": "grpc://triton:9001",
            "ATELIER_GATEWAY_PORT": "0",
        }
    )
    assert settings.triton_url == "triton:9001"
    assert settings.port == 0


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ATELIER_TRITON_URL", "http://triton:8000", "over gRPC"),
        ("ATELIER_TRITON_URL", "triton", "write host:port"),
        ("ATELIER_TRITON_URL", "triton:99999", "write host:port"),
        ("ATELIER_DATABASE_URL", "mysql://root@db/x", "use sqlite:///file.db or postgresql://"),
        ("ATELIER_DATABASE_URL", "sqlite://", "names no file"),
        ("ATELIER_DATABASE_URL", "nonsense", "not a database address"),
        ("ATELIER_GATEWAY_PORT", "70000", "ATELIER_GATEWAY_PORT"),
        ("ATELIER_GATEWAY_PORT", "eighty", "ATELIER_GATEWAY_PORT"),
        ("ATELIER_GATEWAY_REQUEST_TIMEOUT", "inf", "ATELIER_GATEWAY_REQUEST_TIMEOUT"),
        ("ATELIER_GATEWAY_MAX_IMAGES", "0", "ATELIER_GATEWAY_MAX_IMAGES"),
        (
            "ATELIER_GATEWAY_MEMORY",
            "268435456",
            "ATELIER_GATEWAY_MEMORY: less than the largest request",
        ),
        ("ATELIER_GATEWAY_LOG_LEVEL", "loud", "ATELIER_GATEWAY_LOG_LEVEL"),
        ("ATELIER_GATEWAY_MAX_STEP", "5", "did you mean ATELIER_GATEWAY_MAX_STEPS"),
    ],
)
def test_nonsense_is_refused_by_name(variable: str, value: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        GatewaySettings.read({variable: value})


def test_every_bad_variable_is_named_at_once() -> None:
    with pytest.raises(BadInput, match=r"PORT.*;.*MAX_SIDE"):
        GatewaySettings.read({"ATELIER_GATEWAY_PORT": "x", "ATELIER_GATEWAY_MAX_SIDE": "1"})


def test_a_password_is_in_no_text(tmp_path: Path) -> None:
    url = "postgresql://atelier:hunter2@db/atelier"
    settings = GatewaySettings.read({"ATELIER_HOME": str(tmp_path), "ATELIER_DATABASE_URL": url})
    assert settings.database_url == url
    assert "hunter2" not in f"{settings!r}{settings}"
