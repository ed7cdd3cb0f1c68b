"""Reads large bodies and pictures in other processes, which hold neither the GIL nor the loop."""
