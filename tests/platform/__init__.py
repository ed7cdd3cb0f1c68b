"""The rules of a stock cluster (KServe, Knative and the API server), applied to every rendering.

An InferenceService passes KServe's webhooks, KServe's controller, Knative's webhooks, Knative's
controller, and the API server's validation of pods, in that order. Each module models one of them.
"""
