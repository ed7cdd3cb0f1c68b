"""The page at ``/ui``: static files without a build step. No HTTP."""
