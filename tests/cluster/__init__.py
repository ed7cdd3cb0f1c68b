"""The whole flow on the cluster that KUBECONFIG points to; skipped where there is none."""
