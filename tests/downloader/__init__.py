"""Tests of the downloader, against a hub that runs on this machine."""
