"""Tests of what must stay true across the packages: imports, documents, the demo model."""
