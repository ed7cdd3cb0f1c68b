"""The published model folder to a warm pipeline, under the settings for speed and memory."""
