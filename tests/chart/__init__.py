"""Tests of the chart, the manifests and the Dockerfiles, without a cluster."""
