"""The target volume: the lease on a name, staging folders, revisions and their integrity."""
