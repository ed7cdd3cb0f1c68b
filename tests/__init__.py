"""Tests of the bundle: real processes, real pipelines, the real Helm engine."""
