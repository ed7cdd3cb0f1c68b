"""The safety layers: checks of prompts and pictures."""
