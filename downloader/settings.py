"""Every verb and setting, documented once: flags, environment and docs derive from here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSubCommand,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

MaxWorkers = Field(
    default=8, ge=1, le=64, description="How many files are processed at the same time."
)


Variant = Field(
    default="fp16",
    description="The variant of the weights to prefer; a component without it gets the plain "
    "files. Empty: always the plain files.",
)


class VerbSettings(BaseSettings):
    """What every verb reads from flags (``--name``), else from the environment.

    The environment variable of ``name`` is ``DOWNLOADER_NAME``. ``huggingface_hub`` reads
    ``HF_TOKEN`` and ``HF_ENDPOINT``, ``botocore`` the variables ``AWS_…``.
    """

    model_config = SettingsConfigDict(env_prefix="DOWNLOADER_", frozen=True)

    name: str = Field(
        default="",
        description="The model's name: the folder on the volume and the name in the predict URL.",
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto",
        description="`text` is a line every few seconds, `json` one object per line, `auto` a bar "
        "on a terminal and text elsewhere.",
    )
    termination_log: Path = Field(
        default=Path("/dev/termination-log"),
        description="Where the kubelet reads the summary of the run; not written if it does not "
        "exist.",
    )


class VolumeSettings(VerbSettings):
    """What every verb that opens the volume reads."""

    target: Path = Field(
        default=Path("/mnt/models"), description="Where the shared volume is mounted."
    )


class LeaseSettings(VolumeSettings):
    """What every verb that changes the volume reads."""

    lease_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long another download of the same name may miss its heartbeats before "
        "this one takes over.",
    )


class SourceSettings(VerbSettings):
    """What every verb that opens a source reads."""

    source: str = Field(
        default="",
        description="Where the weights come from: `hf://owner/name@revision` (revision optional, "
        "`main` by default), `file:///path/to/folder`, `s3://bucket/prefix`, or "
        "`https://host/x.safetensors` with `sha256`.",
    )
    sha256: str = Field(
        default="", description="The digest of the single file of an `https://` source."
    )
    spec: Path | None = Field(
        default=None,
        description="A YAML file with several models, instead of `source`; `name` then selects "
        "one. See docs/downloads.md.",
    )
    variant: str = Variant
    allow_patterns: str = Field(
        default="",
        description="Comma-separated globs: only files that match one of them are considered.",
    )
    deny_patterns: str = Field(
        default="", description="Comma-separated globs: files that match one of them are ignored."
    )
    skip_components: str = Field(
        default="",
        description="Comma-separated components of the pipeline that are not fetched, such as "
        "`safety_checker` or SD3's `text_encoder_3,tokenizer_3`; the predictor works without them.",
    )
    max_workers: int = MaxWorkers
    max_retries: int = Field(
        default=10,
        ge=0,
        description="How often a failed request is retried. Bytes that arrive reset the count.",
    )
    stall_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long a connection may stay silent or deliver less than 64 KiB before the "
        "request is retried.",
    )
    token_file: Path | None = Field(
        default=None,
        description="A file that contains the hub's token, instead of `HF_TOKEN`. It may be "
        "missing.",
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="Whether a bucket's name goes into the path or the host name. `auto` is the "
        "path if `AWS_ENDPOINT_URL` is set.",
    )

    @field_validator("spec", "token_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def allowed(self) -> tuple[str, ...]:
        """The patterns of ``allow_patterns``."""
        return _words(self.allow_patterns)

    @property
    def denied(self) -> tuple[str, ...]:
        """The patterns of ``deny_patterns``."""
        return _words(self.deny_patterns)

    @property
    def skipped(self) -> tuple[str, ...]:
        """The components of ``skip_components``."""
        return _words(self.skip_components)


class Fetch(SourceSettings, LeaseSettings):
    """Fetch, verify and publish models; the default verb."""

    rehash: bool = Field(
        default=True,
        description="Hash a model that is already published, and repair damaged files; `false` "
        "compares only sizes.",
    )


class Plan(SourceSettings):
    """Print the files, their sizes and the resolved commit; fetches no weights."""


class Verify(VolumeSettings):
    """Hash the served models and compare them with their markers."""

    max_workers: int = MaxWorkers


class ListModels(VolumeSettings):
    """List the published models and their revisions."""


class Prune(LeaseSettings):
    """Delete all but the newest revisions, and the remains of killed runs."""

    keep: int = Field(
        default=2,
        ge=1,
        description="How many revisions of a model `prune` keeps, including the served one.",
    )


class Rollback(LeaseSettings):
    """Serve the previous revision, or the one that --revision names."""

    revision: str = Field(
        default="",
        description="The revision that `rollback` serves. Empty: the previous one.",
    )


class Adopt(LeaseSettings):
    """Publish the pipeline in the folder TARGET/NAME, which something else put on the volume."""

    variant: str = Variant
    max_workers: int = MaxWorkers


class Settings(BaseSettings):
    """Put Stable Diffusion models on a shared volume."""

    model_config = SettingsConfigDict(frozen=True, cli_kebab_case=True, cli_hide_none_type=True)

    fetch: CliSubCommand[Fetch] = Field(description=Fetch.__doc__)
    plan: CliSubCommand[Plan] = Field(description=Plan.__doc__)
    verify: CliSubCommand[Verify] = Field(description=Verify.__doc__)
    list: CliSubCommand[ListModels] = Field(description=ListModels.__doc__)
    prune: CliSubCommand[Prune] = Field(description=Prune.__doc__)
    rollback: CliSubCommand[Rollback] = Field(description=Rollback.__doc__)
    adopt: CliSubCommand[Adopt] = Field(description=Adopt.__doc__)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The verb comes only from the command line; its settings also from the environment."""
        return (init_settings,)


Verb = Fetch | Plan | Verify | ListModels | Prune | Rollback | Adopt
VERBS: dict[str, type[Verb]] = {
    "fetch": Fetch,
    "plan": Plan,
    "verify": Verify,
    "list": ListModels,
    "prune": Prune,
    "rollback": Rollback,
    "adopt": Adopt,
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
