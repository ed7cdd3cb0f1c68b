"""End-to-end tests on the cluster of KUBECONFIG; skipped without one."""
