"""What answers HTTP: KServe's server, routes, middleware, streams and statuses."""
