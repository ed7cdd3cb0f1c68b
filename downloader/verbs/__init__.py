"""What each verb of the command line does."""

from __future__ import annotations

from downloader.settings import Fetch, ListModels, Plan, Prune, Verb, Verify


def run_verb(verb: Verb) -> str:
    """Run the verb and return a summary. Imports only the libraries that the verb needs.

    Raises:
        DownloadError: see ``downloader.errors``.
        ModelStoreError: a name is not valid.
    """
    if isinstance(verb, Fetch | Plan):
        from downloader.verbs import fetching

        return fetching.fetch(verb) if isinstance(verb, Fetch) else fetching.plan(verb)
    from downloader.verbs import housekeeping

    if isinstance(verb, Verify):
        return housekeeping.verify(verb)
    if isinstance(verb, ListModels):
        return housekeeping.list_models(verb)
    if isinstance(verb, Prune):
        return housekeeping.prune(verb)
    return housekeeping.rollback(verb)
