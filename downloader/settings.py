"""Every setting of the downloader, documented once: flags, environment and docs derive from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from flags (``--source``), else from the environment (``DOWNLOADER_SOURCE``).

    The hub's own variables ``HF_TOKEN`` and ``HF_ENDPOINT`` are read by ``huggingface_hub``, the
    variables ``AWS_…`` by ``botocore``.
    """

    model_config = SettingsConfigDict(env_prefix="DOWNLOADER_", frozen=True)

    source: str = Field(
        default="",
        description="Where the weights come from: `hf://owner/name@revision` (revision optional, "
        "`main` by default), `file:///path/to/folder`, `s3://bucket/prefix`, or "
        "`https://host/x.safetensors` with `sha256`.",
    )
    name: str = Field(
        default="",
        description="The model's name: the folder on the volume and the name in the predict URL.",
    )
    sha256: str = Field(
        default="", description="The digest of the single file that an `https://` source is."
    )
    spec: Path | None = Field(
        default=None,
        description="A YAML file with many models, in place of `source`; `name` then picks one. "
        "See docs/downloads.md.",
    )
    target: Path = Field(
        default=Path("/mnt/models"), description="Where the shared volume is mounted."
    )
    variant: str = Field(
        default="fp16",
        description="The weights' variant to take where the repository has it; the plain files "
        "otherwise. Empty: always the plain files.",
    )
    allow_patterns: str = Field(
        default="",
        description="Globs, with commas between them: only files that match one are considered.",
    )
    deny_patterns: str = Field(
        default="", description="Globs, with commas between them: files that match one are not."
    )
    max_workers: int = Field(
        default=8, ge=1, le=64, description="How many files are fetched at the same time."
    )
    max_retries: int = Field(
        default=10,
        ge=0,
        description="How often a request is tried again before the network is given up. Bytes that "
        "arrive set the count back.",
    )
    stall_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long a connection may stay silent before it is given up and tried again.",
    )
    lease_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long another download of the same name may show no sign of life before "
        "this one takes its place.",
    )
    rehash: bool = Field(
        default=True,
        description="Read a model that is published already once more, and mend what is damaged; "
        "`false` compares sizes only.",
    )
    keep: int = Field(
        default=2,
        ge=1,
        description="How many revisions of a model `prune` leaves, the one that is served among "
        "them.",
    )
    revision: str = Field(
        default="",
        description="The revision that `rollback` switches to. Empty: the one served before.",
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto",
        description="`text` is a line every few seconds, `json` an object a line, `auto` a bar on "
        "a terminal and text elsewhere.",
    )
    token_file: Path | None = Field(
        default=None,
        description="A file that holds the hub's token, in place of `HF_TOKEN`. It need not exist.",
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="Whether a bucket's name goes into the path or before the host. `auto` is the "
        "path where `AWS_ENDPOINT_URL` is set.",
    )
    termination_log: Path = Field(
        default=Path("/dev/termination-log"),
        description="Where the kubelet reads how it ended; left alone where it does not exist.",
    )

    @field_validator("spec", "token_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def allowed(self) -> tuple[str, ...]:
        """``allow_patterns`` one by one."""
        return _patterns(self.allow_patterns)

    @property
    def denied(self) -> tuple[str, ...]:
        """``deny_patterns`` one by one."""
        return _patterns(self.deny_patterns)


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())
