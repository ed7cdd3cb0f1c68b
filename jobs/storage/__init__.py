"""Where jobs are: one interface, in Redis for many replicas or in SQLite for one machine."""

from __future__ import annotations

from jobs.settings import Settings
from jobs.storage.interface import Bounds, ModelState, Storage, Submission, WebhookState

__all__ = ["Bounds", "ModelState", "Storage", "Submission", "WebhookState", "open_storage"]


def open_storage(settings: Settings) -> Storage:
    """The storage of the settings; it connects in ``Storage.open``.

    Raises:
        StartError: the URL is not valid.
    """
    bounds = Bounds(
        queue_length=settings.max_queue_length,
        queue_bytes=settings.max_queue_bytes,
        stored_bytes=settings.max_stored_bytes,
        tries=settings.max_tries,
        webhooks=settings.max_webhook_queue,
        key_jobs_per_minute=settings.key_jobs_per_minute,
        key_queued_jobs=settings.key_queued_jobs,
        key_webhooks=settings.key_webhooks,
    )
    if settings.redis_url is None:
        from jobs.storage.sqlite import SQLiteStorage

        return SQLiteStorage(settings.sqlite_path, bounds)
    from jobs.storage.redis import RedisStorage

    return RedisStorage(settings.redis_url.get_secret_value(), bounds)
