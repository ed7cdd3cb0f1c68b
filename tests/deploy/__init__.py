"""The deploy command against a local server that plays the API server's part."""
