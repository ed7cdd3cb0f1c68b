"""The HTTP edge: KServe's server, routes, middleware, streams and statuses."""
