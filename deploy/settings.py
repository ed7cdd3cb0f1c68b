"""Every verb and flag, documented once: the command line and its help derive from these classes."""

from __future__ import annotations

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


Duration = Annotated[str, AfterValidator(_is_duration)]
Folder = Field(
    default=Path("manifests"),
    description="A folder of YAML files, a kustomize overlay, or one YAML file.",
)
Address = Field(
    default=None,
    description="Where to send requests instead of the service's own URL, as in "
    "http://127.0.0.1:8080 of a port-forward; the Host header stays the service's.",
)
Output = Field(default=Path("picture.png"), description="The file to write the picture to.")
Skip: list[str] = Field(
    default=[], description="A check of the doctor to leave out; repeat the flag for several."
)
Service = Field(default=None, description="Which InferenceService, where the folder has several.")


class ClusterFlags(BaseModel):
    """Which cluster; named as in kubectl."""

    namespace: str | None = Field(
        default=None, description="Where the objects go; else the context's namespace."
    )
    context: str | None = Field(default=None, description="The kubeconfig's context; else its own.")
    kubeconfig: Path | None = Field(
        default=None, description="The kubeconfig file; else $KUBECONFIG or ~/.kube/config."
    )


class Up(ClusterFlags):
    """Check the cluster, apply the folder, follow the download, wait, and make a picture."""

    folder: CliPositionalArg[Path] = Folder
    timeout: Duration = Field(
        default="1h", description="How long all of it may take, as in 90s, 30m or 1h30m."
    )
    dry_run: CliToggleFlag[bool] = Field(
        default=False, description="Let the cluster check everything and change nothing."
    )
    force_conflicts: CliToggleFlag[bool] = Field(
        default=False, description="Take over fields that another manager has set."
    )
    address: str | None = Address
    prompt: str = Field(default=PROMPT, description="What the picture shows.")
    output: Path = Output
    skip: list[str] = Skip


class Doctor(ClusterFlags):
    """Check whether the cluster has what the folder's objects need; changes nothing."""

    folder: CliPositionalArg[Path] = Folder
    skip: list[str] = Skip


class Status(ClusterFlags):
    """Say how the download and the services fare, and why they wait."""

    folder: CliPositionalArg[Path] = Folder


class Predict(ClusterFlags):
    """Ask the service for a picture."""

    prompt: CliPositionalArg[str] = Field(description="What the picture shows.")
    folder: Path = Folder
    service: str | None = Service
    address: str | None = Address
    seed: int | None = Field(default=None, description="The seed; else one is drawn.")
    output: Path = Output
    timeout: Duration = Field(
        default="10m", description="How long the picture may take, the start of a pod included."
    )


class Logs(ClusterFlags):
    """Print the log of the download or of the predictor."""

    what: CliPositionalArg[Literal["download", "predictor"]] = Field(
        default="predictor", description="Whose log."
    )
    folder: Path = Folder
    service: str | None = Service
    follow: CliToggleFlag[bool] = Field(default=False, description="Go on until it ends.")


class Down(ClusterFlags):
    """Delete the folder's objects; asks before it deletes the weights."""

    folder: CliPositionalArg[Path] = Folder
    yes: CliToggleFlag[bool] = Field(default=False, description="Delete the weights unasked.")
    keep_weights: CliToggleFlag[bool] = Field(
        default=False, description="Leave the claim with the weights where it is."
    )
    dry_run: CliToggleFlag[bool] = Field(
        default=False, description="Say what would be deleted and delete nothing."
    )


class Settings(BaseSettings):
    """Deploys Stable Diffusion on KServe, waits for the first picture, and explains every wait."""

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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags only: a variable of the environment named `UP` or `LOGS` is not meant for us."""
        return (init_settings,)


Verb = Up | Doctor | Status | Predict | Logs | Down


def read_verb(arguments: Sequence[str]) -> Verb:
    """The settings of the verb that ``arguments`` name.

    Raises:
        UsageError: names the flag and the reason.
        SystemExit: ``--help`` was asked for.
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
        raise UsageError(f"{message}; --help says more") from None


def _as_typed(field: str, arguments: Sequence[str]) -> str:
    """A field's flag, or what the help calls an argument without one."""
    flag = f"--{field.replace('_', '-')}"
    return flag if any(one.partition("=")[0] == flag for one in arguments) else field.upper()
