"""Every setting of the downloader, documented once: flags, environment and docs derive from it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from flags (``--source``), else from the environment (``DOWNLOADER_SOURCE``).

    The hub's own variables ``HF_TOKEN`` and ``HF_ENDPOINT`` are read by ``huggingface_hub``.
    """

    model_config = SettingsConfigDict(env_prefix="DOWNLOADER_", frozen=True)

    source: str = Field(
        description="Where the weights come from: `hf://owner/name@revision` (revision optional, "
        "`main` by default) or `file:///path/to/folder`.",
    )
    name: str = Field(
        description="The model's name: the folder on the volume and the name in the predict URL.",
    )
    target: Path = Field(
        default=Path("/mnt/models"), description="Where the shared volume is mounted."
    )
    variant: str = Field(
        default="fp16",
        description="The weights' variant to take where the repository has it; the plain files "
        "otherwise. Empty: always the plain files.",
    )
    max_workers: int = Field(
        default=8, ge=1, le=64, description="How many files are fetched at the same time."
    )
