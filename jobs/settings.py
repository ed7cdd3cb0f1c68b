"""Every setting of the jobs program; flags and docs/settings.md are derived from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.webhook_signature import read_secrets
from jobs.webhook_target import Network, read_networks

# Model names become parts of URLs and of storage keys.
_MODEL = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}"
_MODEL_URL = rf"{_MODEL}=https?://[^\s/?#,]+[^\s?#,]*"
_MODEL_URLS = rf"^({_MODEL_URL}(,{_MODEL_URL})*)?$"


class Settings(BaseSettings):
    """Flags (``--max_tries``) take precedence over the environment (``JOBS_MAX_TRIES``)."""

    model_config = SettingsConfigDict(env_prefix="JOBS_", frozen=True, validate_default=True)

    host: str = Field(
        default="127.0.0.1",
        description="The address to listen on. The image sets `0.0.0.0`. Without `api_keys_file` "
        "the API requires no key, so restrict who can reach it.",
    )
    port: int = Field(default=8081, ge=1, le=65_535, description="The port to listen on.")
    api_keys_file: Path | None = Field(
        default=None,
        description="A file with the hashes of bearer keys (docs/jobs.md). If set, every route but "
        "the probes and the metrics requires a key, and each key sees only its own jobs. Reread "
        "when it changes.",
    )
    key_jobs_per_minute: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="The most jobs a minute of one key, over all replicas. They may arrive at "
        "once. Further ones get 429. 0 is unlimited.",
    )
    key_queued_jobs: int = Field(
        default=0,
        ge=0,
        description="The most jobs of one key that wait. Further ones get 429. 0 is unlimited.",
    )
    key_webhooks: int = Field(
        default=10_000,
        ge=0,
        description="The most webhooks of one key that wait, so that a receiver that does not "
        "answer leaves room for the webhooks of other keys. Above it, jobs of the key with a "
        "webhook get 429. 0 is unlimited.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="The URL of a Redis or Valkey that all replicas share, such as "
        "`redis://:password@host:6379/0`. If unset, the jobs are in the file `sqlite_path`.",
    )
    sqlite_path: Path = Field(
        default=Path("jobs.sqlite3"),
        description="The file of the jobs without `redis_url`; created if it does not exist. All "
        "processes that use it must run on one machine.",
    )
    bucket_url: str = Field(
        default="",
        pattern=rf"^(s3://{_BUCKET}(/[A-Za-z0-9_][A-Za-z0-9!_.*'()=-]*)*/?)?$",
        description="The S3 bucket that keeps the pictures, as `s3://bucket` or "
        "`s3://bucket/prefix`. If empty, they are kept with the jobs. `botocore` reads the "
        "variables `AWS_…` (docs/jobs.md).",
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="Whether a bucket's name goes into the path or the host name. `auto` is the "
        "path if `AWS_ENDPOINT_URL` is set.",
    )
    predictor_url: str = Field(
        default="http://127.0.0.1:8080",
        pattern=r"^https?://[^\s/?#]+[^\s?#]*$",
        description="Where the predictor answers. `{model}` in it stands for the name of the job's "
        "model, as in `http://{model}.images.svc.cluster.local`.",
    )
    predictor_urls: str = Field(
        default="",
        pattern=_MODEL_URLS,
        description="Where the predictors of some models answer, if that is not `predictor_url`, "
        "as `model=url`, separated by commas.",
    )
    metrics_urls: str = Field(
        default="",
        pattern=_MODEL_URLS,
        description="Where to read the metrics of the predictors of some models, if that is not "
        "the URL of the calls, as `model=url`, separated by commas. Use the name of a headless "
        "Service, which resolves to the addresses of all replicas, and the port of the pods.",
    )
    predictor_api_key: SecretStr | None = Field(
        default=None, description="The key for a predictor that requires one (docs/security.md)."
    )
    models: str = Field(
        default="stable-diffusion",
        pattern=rf"^{_MODEL}(,{_MODEL})*$",
        description="The models that take jobs, separated by commas. The first is the default.",
    )
    max_concurrency: int = Field(
        default=64,
        ge=1,
        description="The most jobs of one model that this process runs at the same time. It runs "
        "fewer if the predictor's batches are smaller (`diffusion_lanes`).",
    )
    lease_seconds: float = Field(
        default=30.0,
        ge=1,
        le=86_400,
        description="How long a job stays with a process that no longer renews its lease. Then "
        "another process runs the job.",
    )
    max_tries: int = Field(
        default=3,
        ge=2,
        description="How often a job may start. The last try runs without other jobs of its model, "
        "so that a job that stops the predictor fails alone. Refusals of a busy predictor, and one "
        "that is not running, do not count.",
    )
    predictor_silence_seconds: float = Field(
        default=600.0,
        gt=0,
        description="How long a predictor may send nothing about a job. Then the try counts as "
        "failed, or is repeated if the response has not begun. Longer than the longest wait in the "
        "predictor's queue.",
    )
    max_body_bytes: int = Field(
        default=16_777_216,
        ge=1024,
        description="The largest request body. A longer one gets 413.",
    )
    max_queue_length: int = Field(
        default=10_000,
        ge=1,
        description="The most jobs that wait, over all models. Further ones get 429.",
    )
    max_queue_bytes: int = Field(
        default=268_435_456,
        ge=1024,
        description="The most bytes of the bodies of all jobs that are not finished. A job that "
        "does not fit gets 429.",
    )
    max_stored_bytes: int = Field(
        default=4_294_967_296,
        ge=1024,
        description="The most bytes of all stored pictures. Above it the oldest pictures are "
        "removed, and their URLs return 410. A job whose pictures are larger fails. With "
        "`bucket_url` only the latter applies.",
    )
    default_expires_in: float = Field(
        default=86_400.0,
        ge=1,
        description="The `expires_in` of jobs without one, in seconds.",
    )
    max_expires_in: float = Field(
        default=604_800.0,
        ge=1,
        le=315_360_000,
        description="The largest `expires_in`, in seconds.",
    )
    max_wait_seconds: float = Field(
        default=60.0,
        ge=0,
        description="The longest wait of a request with `Prefer: wait`. Keep it below the timeouts "
        "of the gateways in front.",
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        description="After SIGTERM: how long running jobs may take. Then they go back to the "
        "queue. Keep it below the pod's `terminationGracePeriodSeconds`.",
    )

    webhook_secrets: SecretStr | None = Field(
        default=None,
        description="The secrets that sign webhooks, separated by commas: `whsec_` and the base64 "
        "form of 24 to 64 random bytes. Each signs every message, so that receivers can change "
        "theirs one by one. If unset, jobs with a webhook get 400.",
    )
    webhook_networks: str = Field(
        default="",
        description="Networks that webhooks may reach in addition to public addresses, separated "
        "by commas, such as `10.0.0.0/8`. Anyone who can submit a job can make this program send "
        "a request to each address in them.",
    )
    webhook_allow_http: bool = Field(
        default=False, description="Whether the URL of a webhook may begin with `http://`."
    )
    webhook_timeout_seconds: float = Field(
        default=10.0,
        ge=0.1,
        le=60,
        description="How long a receiver may take to respond, from the look-up of its name.",
    )
    max_webhook_queue: int = Field(
        default=100_000,
        ge=1,
        description="The most webhooks that wait. Above it, jobs with a webhook get 429.",
    )

    @model_validator(mode="after")
    def _check_expiry(self) -> Settings:
        if self.default_expires_in > self.max_expires_in:
            raise ValueError("default_expires_in must be at most max_expires_in")
        return self

    @model_validator(mode="after")
    def _check_webhooks(self) -> Settings:
        """Here, because the error of a field would show its secret value."""
        _ = self.webhook_keys
        try:
            _ = self.allowed_networks
        except ValueError as error:
            raise ValueError(f"webhook_networks: {error}") from None
        return self

    @model_validator(mode="after")
    def _check_limits(self) -> Settings:
        if self.api_keys_file is None and (self.key_jobs_per_minute or self.key_queued_jobs):
            raise ValueError("a limit per key requires keys: set api_keys_file")
        return self

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names in ``models``."""
        return tuple(self.models.split(","))

    @property
    def webhook_keys(self) -> tuple[bytes, ...]:
        """The keys in ``webhook_secrets``."""
        secrets = self.webhook_secrets
        return read_secrets(secrets.get_secret_value()) if secrets else ()

    @property
    def allowed_networks(self) -> tuple[Network, ...]:
        """The networks in ``webhook_networks``."""
        return read_networks(self.webhook_networks)

    def url_of(self, model: str) -> str:
        """The base URL of the predictor for a model."""
        return _url_in(self.predictor_urls, model, self.predictor_url)

    def metrics_url_of(self, model: str) -> str:
        """The base URL of the metrics of the predictor for a model."""
        return _url_in(self.metrics_urls, model, self.url_of(model))


def _url_in(pairs: str, model: str, default: str) -> str:
    """The URL of a model in ``model=url,...``."""
    urls = dict(pair.split("=", 1) for pair in pairs.split(",") if pair)
    return urls.get(model, default).replace("{model}", model).rstrip("/")
