"""The families of models: what each can do and what a request may leave out."""
