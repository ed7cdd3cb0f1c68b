"""The rules of a stock cluster: KServe's, Knative's and the API server's, on every rendering.

An InferenceService passes KServe's webhooks, KServe's controller, Knative's webhooks and its
controller, and the API server's validation of pods, in that order. Each module plays one of them.
"""
