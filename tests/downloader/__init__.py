"""Tests of the downloader, against a local hub."""
