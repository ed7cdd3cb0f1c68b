"""The verbs, one module each: ``run(settings, reporter)`` is one command from start to end."""
