"""The downloader: spec, plan, fetch, verify, publish. Knows nothing of torch."""

import os

# Read by huggingface_hub when it is imported. A download asks a hub for nothing but the model: what
# a mirror answers to other questions could break it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
