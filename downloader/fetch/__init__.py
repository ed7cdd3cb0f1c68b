"""Planned files become files in a folder: linked from the volume or fetched, hashed, resumed."""
