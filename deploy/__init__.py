"""Deploys a folder of manifests, waits for the first picture, and explains every wait."""
