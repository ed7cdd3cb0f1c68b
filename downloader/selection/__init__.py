"""Which files of a source are fetched, for each kind of part. Pure: sees names, never weights."""
