"""The target volume: the lease on a name, the folders of a download, revisions, what is deleted."""
