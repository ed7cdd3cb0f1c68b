"""What each verb of the command line does."""

from __future__ import annotations

from downloader.settings import Adopt, Fetch, ListModels, Plan, Prune, Verb, Verify


def run_verb(verb: Verb) -> str:
    """Run the verb and return a summary. Imports only the libraries that the verb needs.

    Raises:
        DownloadError: see ``downloader.errors``.
        ModelStoreError: a name is not valid.
    """
    if isinstance(verb, Fetch | Plan | Adopt):
        from downloader.verbs import fetching

        if isinstance(verb, Fetch):
            return fetching.fetch(verb)
        return fetching.plan(verb) if isinstance(verb, Plan) else fetching.adopt(verb)
    from downloader.verbs import housekeeping

    if isinstance(verb, Verify):
        return housekeeping.verify(verb)
    if isinstance(verb, ListModels):
        return housekeeping.list_models(verb)
    if isinstance(verb, Prune):
        return housekeeping.prune(verb)
    return housekeeping.rollback(verb)
