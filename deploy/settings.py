"""Every verb and flag, documented once; the command line and its help derive from these classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

from kubernetes.utils import duration as durations
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSubCommand,
    CliToggleFlag,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    get_subcommand,
)

from deploy.errors import UsageError

PROMPT = "a lighthouse at dusk, oil painting"


def seconds_of(duration: str) -> float:
    """Seconds of ``90s``, ``30m`` or ``1h30m``.

    Raises:
        ValueError: it is not a duration (https://gateway-api.sigs.k8s.io/geps/gep-2257/).
    """
    return float(durations.parse_duration(duration).total_seconds())


def _is_duration(text: str) -> str:
    try:
        seconds_of(text)
    except ValueError:
        raise ValueError("must be a duration such as 90s, 30m or 1h30m") from None
    return text


def _is_key_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", text):
        raise ValueError("must be letters, digits, '.', '_', '@' or '-', at most 63")
    return text


Duration = Annotated[str, AfterValidator(_is_duration)]
Folder = Field(
    default=Path("manifests"),
    description="A folder of YAML files, a kustomize overlay, or one YAML file.",
)
Address = Field(
    default=None,
    description="Where to send requests instead of the service's own URL, such as "
    "http://127.0.0.1:8080 of a port-forward. The Host header stays that of the service.",
)
Output = Field(default=Path("picture.png"), description="The file to write the picture to.")
ApiKeyFile = Field(
    default=None,
    description="A file with the key to send, if the predictor requires one.",
)
Skip: list[str] = Field(
    default=[], description="A check of the doctor to leave out. Repeat the flag for several."
)
Service = Field(default=None, description="Which InferenceService, if the folder has several.")


class ClusterFlags(BaseModel):
    """Which cluster; the names are those of kubectl."""

    namespace: str | None = Field(
        default=None, description="The namespace of the objects; the default is the context's."
    )
    context: str | None = Field(
        default=None,
        description="The context in the kubeconfig; the default is its current context.",
    )
    kubeconfig: Path | None = Field(
        default=None,
        description="The kubeconfig file; the default is $KUBECONFIG or ~/.kube/config.",
    )


class Up(ClusterFlags):
    """Check the cluster, apply the folder, follow the download, wait, and request a picture."""

    folder: CliPositionalArg[Path] = Folder
    timeout: Duration = Field(
        default="1h", description="The time limit for the whole run, such as 90s, 30m or 1h30m."
    )
    dry_run: CliToggleFlag[bool] = Field(
        default=False,
        description="Have the cluster validate everything, print what would change, and change "
        "nothing.",
    )
    force_conflicts: CliToggleFlag[bool] = Field(
        default=False, description="Take over fields that another manager has set."
    )
    address: str | None = Address
    prompt: str = Field(default=PROMPT, description="What the picture shows.")
    output: Path = Output
    api_key_file: Path | None = ApiKeyFile
    skip: list[str] = Skip


class Doctor(ClusterFlags):
    """Check whether the cluster has what the folder's objects need, and change nothing."""

    folder: CliPositionalArg[Path] = Folder
    skip: list[str] = Skip


class Status(ClusterFlags):
    """Print the state of the download and the services, and why they wait."""

    folder: CliPositionalArg[Path] = Folder


class Explain(ClusterFlags):
    """Explain the state of any InferenceService, also of one that this project did not create."""

    name: CliPositionalArg[str] = Field(description="The name of the InferenceService.")


class Predict(ClusterFlags):
    """Request a picture from the service."""

    prompt: CliPositionalArg[str] = Field(description="What the picture shows.")
    folder: Path = Folder
    service: str | None = Service
    address: str | None = Address
    seed: int | None = Field(default=None, description="The seed; the default is a random one.")
    output: Path = Output
    api_key_file: Path | None = ApiKeyFile
    timeout: Duration = Field(
        default="10m", description="The time limit for the picture, including the start of a pod."
    )


class Logs(ClusterFlags):
    """Print the log of the download or of the predictor."""

    what: CliPositionalArg[Literal["download", "predictor"]] = Field(
        default="predictor", description="Which log."
    )
    folder: Path = Folder
    service: str | None = Service
    follow: CliToggleFlag[bool] = Field(default=False, description="Continue until the log ends.")


class Down(ClusterFlags):
    """Delete the folder's objects, and ask before deleting the weights."""

    folder: CliPositionalArg[Path] = Folder
    yes: CliToggleFlag[bool] = Field(
        default=False, description="Delete the weights without asking."
    )
    keep_weights: CliToggleFlag[bool] = Field(
        default=False, description="Keep the claim with the weights."
    )
    dry_run: CliToggleFlag[bool] = Field(
        default=False, description="Print what would be deleted, and delete nothing."
    )


class Key(BaseModel):
    """Create a bearer key for a caller, and print the line of the key file with its hash."""

    name: CliPositionalArg[Annotated[str, AfterValidator(_is_key_name)]] = Field(
        description="The name of the caller in metrics."
    )
    admin: CliToggleFlag[bool] = Field(
        default=False, description="Allow the key to load and unload models."
    )


class Settings(BaseSettings):
    """Deploy Stable Diffusion on KServe, wait for the first picture, and explain every wait."""

    model_config = SettingsConfigDict(
        frozen=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_parse_none_str="unset",
        cli_shortcuts={"namespace": "n", "follow": "f", "yes": "y"},
    )

    up: CliSubCommand[Up] = Field(description=Up.__doc__)
    doctor: CliSubCommand[Doctor] = Field(description=Doctor.__doc__)
    status: CliSubCommand[Status] = Field(description=Status.__doc__)
    predict: CliSubCommand[Predict] = Field(description=Predict.__doc__)
    logs: CliSubCommand[Logs] = Field(description=Logs.__doc__)
    down: CliSubCommand[Down] = Field(description=Down.__doc__)
    explain: CliSubCommand[Explain] = Field(description=Explain.__doc__)
    key: CliSubCommand[Key] = Field(description=Key.__doc__)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags only: an environment variable named `UP` or `LOGS` is not ours."""
        return (init_settings,)


Verb = Up | Doctor | Status | Explain | Predict | Logs | Down | Key


def read_verb(arguments: Sequence[str]) -> Verb:
    """The settings of the verb in ``arguments``.

    Raises:
        UsageError: names the flag and the reason.
        SystemExit: ``--help`` is among them.
    """
    try:
        settings = Settings(
            _cli_parse_args=list(arguments),
            _cli_prog_name="python -m deploy",
            _cli_exit_on_error=False,
        )  # type: ignore[call-arg]  # the verb comes from the command line
        return cast(Verb, get_subcommand(settings, cli_exit_on_error=False))
    except ValidationError as error:
        first = error.errors()[0]
        what = _as_typed(str(first["loc"][-1]), arguments)
        raise UsageError(f"{what}: {first['msg'].removeprefix('Value error, ')}") from None
    except SettingsError as error:
        message = str(error).removeprefix("error parsing CLI: ").removeprefix("Error: ")
        raise UsageError(f"{message}; see --help") from None


def _as_typed(field: str, arguments: Sequence[str]) -> str:
    """A field's flag, or the name of a positional argument as in the help."""
    flag = f"--{field.replace('_', '-')}"
    return flag if any(one.partition("=")[0] == flag for one in arguments) else field.upper()
