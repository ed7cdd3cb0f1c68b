"""Durable asynchronous jobs in front of the predictor: a queue, workers and an HTTP API."""
