"""Bringing bytes in: ranges over HTTP, retries, one file at a time, many files at once."""
