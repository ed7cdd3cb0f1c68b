"""Which files of a source are fetched, for each kind of part. Pure: reads names, not weights."""
