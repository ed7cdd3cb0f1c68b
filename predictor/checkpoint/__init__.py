"""What a model folder is, read from its files without loading its weights."""
