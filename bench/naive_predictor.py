"""The server that ``bench.start`` compares with: a KServe model that loads before it serves.

``python -m bench.naive_predictor MODEL_DIR DTYPE VARIANT --model_name=NAME --http_port=PORT``. This
is what KServe's documentation shows for a custom predictor, with a diffusers pipeline in it.
"""

import base64
import io
import sys
from typing import Any

import torch
from diffusers import DiffusionPipeline
from kserve import Model, ModelServer, model_server


class NaivePredictor(Model):  # type: ignore[misc]  # kserve ships no types
    """One picture per request, through the pipeline's own call."""

    def load(self) -> bool:
        """Load the weights; the port opens afterwards."""
        folder, dtype, variant = sys.argv[1:4]
        self.pipeline: Any = DiffusionPipeline.from_pretrained(
            folder, dtype=getattr(torch, dtype), variant=variant or None
        )
        print("loaded", flush=True)
        self.ready = True
        return True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer ``{"instances": [{"prompt": ..., "parameters": {...}}]}`` with a PNG in base64."""
        (instance,) = payload["instances"]
        parameters = instance["parameters"]
        generator = torch.Generator().manual_seed(parameters.pop("seed"))
        output = self.pipeline(instance["prompt"], generator=generator, **parameters)
        png = io.BytesIO()
        output.images[0].save(png, "PNG")
        return {"predictions": [base64.b64encode(png.getvalue()).decode()]}


if __name__ == "__main__":
    model = NaivePredictor(model_server.args.model_name)
    model.load()
    ModelServer(enable_grpc=False).start([model])
