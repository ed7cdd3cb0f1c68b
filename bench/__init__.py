"""Benchmarks that compare alternatives within one run; nothing here is a test."""
