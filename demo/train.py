"""Train the demo pipeline on pictures that Pillow draws: ``python demo/train.py``.

Training has two stages from one seed and runs on two CPU cores. First the VAE learns to encode the
pictures. Then the text encoder and the UNet learn together to denoise the latents under
v-prediction (Salimans & Ho 2022, arXiv 2202.00512). One prompt in ten is empty for classifier-free
guidance (Ho & Salimans 2022, arXiv 2207.12598).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.shapes import SIZE, Placement, Scene, all_scenes, draw
from demo.tokenizer import WINDOW, build_tokenizer

TEXT_WIDTH = 64
PICTURES_PER_SCENE = 48
GENERATION_DEFAULTS = {
    "width": SIZE,
    "height": SIZE,
    "num_inference_steps": 20,
    "guidance_scale": 2.0,
    "scheduler": "unipc",
}


def main() -> None:
    """Train and save the pipeline, and print the progress of each stage."""
    options = _parse_arguments()
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    scenes = [scene for scene in all_scenes() for _ in range(PICTURES_PER_SCENE)]
    pixels = _draw_all(scenes, rng)

    vae = _build_vae()
    _train_vae(vae, pixels, options.vae_steps, batch_size=24)
    latents = _whiten(vae, pixels)

    tokenizer = build_tokenizer(_phrasings(all_scenes()))
    text_encoder, unet, scheduler = (
        _build_text_encoder(tokenizer),
        _build_unet(),
        _build_scheduler(),
    )
    _train_denoiser(text_encoder, unet, scheduler, tokenizer, latents, scenes, options.steps, rng)

    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    _save(pipeline, options.output)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo/model"))
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--vae-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=4000)
    return parser.parse_args()


def _draw_all(scenes: list[Scene], rng: random.Random) -> Tensor:
    """Pictures of all scenes, uint8 of shape (scenes, 3, 64, 64)."""
    pictures = [np.asarray(draw(scene, Placement.random(rng))) for scene in scenes]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _as_sample(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def _build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[16, 32, 32],
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def _build_text_encoder(tokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH * 4,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=WINDOW,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=[32, 64, 96],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def _build_scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
    )


def _learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 3 % of the steps, then cosine decay to zero."""
    warmup = max(1, steps * 3 // 100)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _train_vae(vae: AutoencoderKL, pixels: Tensor, steps: int, batch_size: int) -> None:
    vae.train()
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=0.0, fused=True)
    clock = Clock("vae", steps)
    for step in range(steps):
        _set_rate(optimizer, _learning_rate(step, steps, 4e-3))
        sample = _as_sample(pixels[torch.randint(len(pixels), (batch_size,))])
        posterior = vae.encode(sample).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error = functional.l1_loss(decoded, sample) + functional.mse_loss(decoded, sample)
        loss = error + 1e-6 * posterior.kl().mean()
        _descend(optimizer, loss, vae.parameters())
        clock.tick(step, loss)
    vae.eval()


@torch.no_grad()
def _whiten(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Fold a whitening of the latents into the VAE's two 1x1 convolutions; return all latents.

    Diffusion expects latents of zero mean and unit variance, but ``scaling_factor`` is one number
    for all channels. The VAE's own affine layers can do it per channel.
    """
    sample = torch.cat(
        [vae.encode(_as_sample(part)).latent_dist.mean for part in pixels.split(256)]
    )
    mean = sample.mean(dim=(0, 2, 3))
    deviation = sample.std(dim=(0, 2, 3))
    quant, post_quant = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] /= deviation[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / deviation
    quant.bias[4:] -= 2 * deviation.log()
    post_quant.bias += post_quant.weight[:, :, 0, 0] @ mean
    post_quant.weight *= deviation[None, :, None, None]
    return (sample - mean[:, None, None]) / deviation[:, None, None]


def _phrasings(scenes) -> list[str]:
    return [phrase for scene in scenes for phrase in _phrases(scene)]


def _phrases(scene: Scene) -> tuple[str, str, str]:
    """The full prompt, the prompt without articles, and the shape without the background."""
    full = scene.prompt
    bare = f"{scene.colour} {scene.shape} on {scene.background} background"
    return full, bare, full.split(" on ")[0]


def _prompt_for(scene: Scene, rng: random.Random) -> str:
    full, bare, alone = _phrases(scene)
    return rng.choices((full, bare, alone, ""), weights=(74, 8, 8, 10))[0]


def _train_denoiser(
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    scheduler: UniPCMultistepScheduler,
    tokenizer,
    latents: Tensor,
    scenes: list[Scene],
    steps: int,
    rng: random.Random,
    batch_size: int = 32,
) -> None:
    """Fit ``v = alpha * noise - sigma * latents`` and leave the averaged weights in the modules."""
    parameters = [*text_encoder.parameters(), *unet.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, fused=True)
    average = [parameter.detach().clone() for parameter in parameters]
    signal = scheduler.alphas_cumprod.sqrt()
    noise_level = (1 - scheduler.alphas_cumprod).sqrt()
    clock = Clock("denoiser", steps)
    for step in range(steps):
        _set_rate(optimizer, _learning_rate(step, steps, 1.5e-3))
        picked = torch.randint(len(latents), (batch_size,))
        prompts = [_prompt_for(scenes[index], rng) for index in picked.tolist()]
        tokens = tokenizer(prompts, padding="max_length", max_length=WINDOW, return_tensors="pt")
        clean = latents[picked]
        noise = torch.randn_like(clean)
        timesteps = _draw_timesteps(batch_size)
        alpha, sigma = signal[timesteps, None, None, None], noise_level[timesteps, None, None, None]
        hidden = text_encoder(tokens.input_ids)[0]
        predicted = unet(alpha * clean + sigma * noise, timesteps, hidden).sample
        loss = functional.mse_loss(predicted, alpha * noise - sigma * clean)
        _descend(optimizer, loss, parameters)
        decay = min(0.998, (step + 1) / (step + 10))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        clock.tick(step, loss)
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
    text_encoder.eval()
    unet.eval()


def _draw_timesteps(count: int) -> Tensor:
    """Favour noisy timesteps, where the prompt decides what the picture shows."""
    return (1000 * torch.rand(count) ** 0.7).long()


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, parameters) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _save(pipeline: StableDiffusionPipeline, output: Path) -> None:
    pipeline.to(torch.float16).save_pretrained(output, safe_serialization=True, variant="fp16")
    (output / "generation_defaults.json").write_text(
        json.dumps(GENERATION_DEFAULTS, indent=2) + "\n"
    )
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"saved {output} ({size / 1e6:.2f} MB)")


class Clock:
    """Print the mean loss and the time every 250 steps."""

    def __init__(self, stage: str, steps: int) -> None:
        self._stage, self._steps = stage, steps
        self._start = time.perf_counter()
        self._losses: list[float] = []

    def tick(self, step: int, loss: Tensor) -> None:
        """Record one step's loss."""
        self._losses.append(loss.item())
        if (step + 1) % 250 == 0 or step + 1 == self._steps:
            mean = sum(self._losses) / len(self._losses)
            seconds = time.perf_counter() - self._start
            print(
                f"{self._stage} {step + 1}/{self._steps} loss {mean:.4f} {seconds:.0f} s",
                flush=True,
            )
            self._losses.clear()


if __name__ == "__main__":
    main()
