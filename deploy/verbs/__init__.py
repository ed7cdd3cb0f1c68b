"""The verbs, one module each: ``run(settings, reporter)`` tells the story of one command."""
