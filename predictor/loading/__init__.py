"""Loads a published model folder into a warm pipeline with the speed and memory settings."""
