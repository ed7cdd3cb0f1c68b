"""Tests of invariants across packages: imports, documents, the demo model."""
