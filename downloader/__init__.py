"""The downloader: spec, plan, fetch, verify, publish. Knows nothing of torch."""
