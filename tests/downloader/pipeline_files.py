"""The files of a small Stable Diffusion repository, as on a hub."""

from __future__ import annotations

import json

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

# Other files of a repository; none of them may be fetched.
CLUTTER = {
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "README.md": b"# A model\n",
    "example.png": b"\x89PNG",
    "pipeline.py": b"raise SystemExit\n",
    "v1-5-pruned.ckpt": b"pickle of everything",
    "v1-5-pruned.safetensors": b"everything in one file",
    "text_encoder/pytorch_model.bin": b"pickle",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "unet/diffusion_pytorch_model.fp16.bin": b"pickle",
    "unet/diffusion_flax_model.msgpack": b"flax",
    "unet/model.onnx": b"onnx",
    "vae/diffusion_pytorch_model.bin": b"pickle",
    "vae_1_0/diffusion_pytorch_model.safetensors": b"no component",
}


def safetensors(value: int, elements: int = 64) -> bytes:
    """A safetensors file with one tensor of ``elements`` bytes, all ``value``."""
    header = {"weight": {"dtype": "U8", "shape": [elements], "data_offsets": [0, elements]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes([value]) * elements


def pipeline_files(seed: int = 1) -> dict[str, bytes]:
    """The pipeline's plain files; another ``seed`` gives other weights of the same size."""
    return {
        "model_index.json": json.dumps(MODEL_INDEX).encode(),
        "feature_extractor/preprocessor_config.json": b'{"size": 224}',
        "safety_checker/config.json": b"{}",
        "safety_checker/model.safetensors": safetensors(seed),
        "scheduler/scheduler_config.json": b'{"num_train_timesteps": 1000}',
        "text_encoder/config.json": b"{}",
        "text_encoder/model.safetensors": safetensors(seed + 1),
        "tokenizer/merges.txt": b"#version: 0.2\n",
        "tokenizer/tokenizer_config.json": b"{}",
        "tokenizer/vocab.json": b'{"a": 0}',
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": safetensors(seed + 2, 4096),
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": safetensors(seed + 3),
    }


def half_files(seed: int = 1) -> dict[str, bytes]:
    """The fp16 files of the components that have them; the safety checker has none."""
    return {
        "text_encoder/model.fp16.safetensors": safetensors(seed + 11),
        "unet/diffusion_pytorch_model.fp16.safetensors": safetensors(seed + 12, 2048),
        "vae/diffusion_pytorch_model.fp16.safetensors": safetensors(seed + 13),
    }


def whole_repository(seed: int = 1) -> dict[str, bytes]:
    """Plain files, fp16 files, an unused fp32 variant, pickles and other files."""
    other = {"unet/diffusion_pytorch_model.non_ema.safetensors": safetensors(seed + 20)}
    return pipeline_files(seed) | half_files(seed) | other | CLUTTER


def published_paths() -> set[str]:
    """The files of ``whole_repository`` that are published when fp16 is requested."""
    halves = set(half_files())
    replaced = {path.replace(".fp16.safetensors", ".safetensors") for path in halves}
    return set(pipeline_files()) - replaced | halves
