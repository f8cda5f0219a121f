"""Settings of a process: typed `ATELIER_*` variables.

Each process has one class of settings beside its main function, and reads every variable through
it. A wrong name or value ends the process at its start. docs/settings.md lists the variables with
their defaults.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Final, Self

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from atelier.errors import BadInput

PREFIX: Final = "ATELIER_"

# The variables of all processes. A pod or a shell may set the variables of several processes, so
# each process accepts the names of the others. The core cannot import the classes of the other
# processes; a test compares this list with them.
NAMES: Final = frozenset(
    {
        "ATELIER_BACKEND",
        "ATELIER_BASE",
        "ATELIER_CLUSTER",
        "ATELIER_CLUSTER_CA",
        "ATELIER_COMPILED",
        "ATELIER_CONTROL",
        "ATELIER_DATABASE_URL",
        "ATELIER_DECODE_BATCH",
        "ATELIER_DEVICE",
        "ATELIER_DRAIN_SECONDS",
        "ATELIER_EMBEDDINGS",
        "ATELIER_ENVIRONMENT",
        "ATELIER_GATEWAY",
        "ATELIER_GATEWAY_BODY_LIMIT",
        "ATELIER_GATEWAY_HOST",
        "ATELIER_GATEWAY_KUBERNETES",
        "ATELIER_GATEWAY_LOG_LEVEL",
        "ATELIER_GATEWAY_MAX_IMAGES",
        "ATELIER_GATEWAY_MAX_SIDE",
        "ATELIER_GATEWAY_MAX_STEPS",
        "ATELIER_GATEWAY_MEMORY",
        "ATELIER_GATEWAY_MODEL",
        "ATELIER_GATEWAY_PICTURE_QUEUE",
        "ATELIER_GATEWAY_PICTURE_WAIT",
        "ATELIER_GATEWAY_POLL",
        "ATELIER_GATEWAY_PORT",
        "ATELIER_GATEWAY_PROMPT_LIMIT",
        "ATELIER_GATEWAY_REQUEST_TIMEOUT",
        "ATELIER_GATEWAY_SHUTDOWN_TIMEOUT",
        "ATELIER_GATEWAY_TRAFFIC",
        "ATELIER_GATEWAY_WORKERS",
        "ATELIER_GIT_COMMIT",
        "ATELIER_HELM",
        "ATELIER_HOME",
        "ATELIER_HOST_MEMORY",
        "ATELIER_INFLIGHT",
        "ATELIER_KEY",
        "ATELIER_MAX_BATCH",
        "ATELIER_MAX_RANK",
        "ATELIER_MAX_SIDE",
        "ATELIER_MAX_SKIPPED_STEPS",
        "ATELIER_NAMESPACE",
        "ATELIER_POOL",
        "ATELIER_PRECISION",
        "ATELIER_QUEUE",
        "ATELIER_REPLICA",
        "ATELIER_REVISION",
        "ATELIER_SAMPLE_KEEP",
        "ATELIER_SAMPLE_SHARE",
        "ATELIER_SIGNATURES",
        "ATELIER_SIGNERS",
        "ATELIER_SIGNING_KEY",
        "ATELIER_SIGNING_PASSWORD",
        "ATELIER_SLOTS",
        "ATELIER_SMOKE_REQUIRED",
        "ATELIER_SMOKE_TOLERANCE",
        "ATELIER_TENSORRT",
        "ATELIER_TRAIN_IMAGE",
        "ATELIER_TRITONSERVER",
        "ATELIER_TRITON_GRPC_PORT",
        "ATELIER_TRITON_HOST",
        "ATELIER_TRITON_HTTP_PORT",
        "ATELIER_TRITON_METRICS_PORT",
        "ATELIER_TRITON_URL",
        "ATELIER_VAE",
        "ATELIER_VOLUME",
    }
)
# Read only by the Makefile and the tests, and inherited by the processes that they start.
DEVELOPMENT: Final = frozenset(
    {
        "ATELIER_BEGAN",
        "ATELIER_CHARACTER_SEED",
        "ATELIER_CLUSTER_CACHE",
        "ATELIER_CLUSTER_HOME",
        "ATELIER_CLUSTER_PREFIX",
        "ATELIER_E2E",
        "ATELIER_E2E_RUN",
        "ATELIER_IMAGES",
        "ATELIER_REGISTRY",
        "ATELIER_RESULTS",
        "ATELIER_SOAK",
        "ATELIER_TARGET",
    }
)

# Texts by pydantic's type of error. Other types keep the text of pydantic.
_TEXTS: Final = {
    "bool_parsing": "must be true or false",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_parsing": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
}


class Settings(BaseSettings):
    """The base of every process's settings: `ATELIER_<FIELD>` or its alias sets a field.

    `read` reads the variables; the constructor takes only values. The value of a field with
    `repr=False` is secret: neither the text of the object nor an error contains it.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        validate_default=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the arguments of the constructor; `read` adds the environment."""
        return (init_settings,)

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the settings from environment variables, by default those of this process.

        An empty variable counts as not set. Raises BadInput, with every variable whose value is
        invalid, or with the first variable whose name is unknown.
        """
        variables = os.environ if environment is None else environment
        refuse_unknown(variables)
        source = EnvSettingsSource(cls)
        source.env_vars = {
            name.lower(): value
            for name, value in variables.items()
            if value and name.startswith(PREFIX)
        }
        try:
            return cls(**source())
        except ValidationError as error:
            texts = [_text(problem, cls) for problem in error.errors()]
            raise BadInput("; ".join(texts)) from None

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return the variables by field."""
        prefix = str(cls.model_config["env_prefix"])
        return {
            name: str(field.validation_alias or f"{prefix}{name.upper()}")
            for name, field in cls.model_fields.items()
        }


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raise BadInput for a variable that begins with ATELIER_ and that no process reads."""
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in NAMES | DEVELOPMENT:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists the settings"
            raise BadInput(f"{name} is not a setting; {hint}")


def _text(error: ErrorDetails, cls: type[Settings]) -> str:
    """Format an error of pydantic, with the name of the variable."""
    variables = cls.variables()
    text = error["msg"].removeprefix("Value error, ")
    place = next((str(part) for part in error["loc"]), "")
    field = next((name for name, variable in variables.items() if place in (name, variable)), None)
    if field is None:
        return f"{place}: {text}" if place else text
    variable, info = variables[field], cls.model_fields[field]
    if error["type"] == "missing":
        return f"{variable} is not set ({info.description})"
    if template := _TEXTS.get(error["type"]):
        context = {name: str(value) for name, value in error.get("ctx", {}).items()}
        text = template.format_map(context)
    if error["type"] == "literal_error":
        text = text.replace("'", "").replace(" or ", ", ")
    if error["type"] != "value_error":  # the texts of our own validators describe the setting
        text = f"{text} ({info.description})"
    return f"{variable}={error['input']}: {text}" if info.repr else f"{variable}: {text}"
