"""The KServe custom predictor: protocol, validated request, engine, images, response."""
