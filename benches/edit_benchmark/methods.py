"""The methods that are compared. Each makes results of an edit's source and prompt; the true result is not for them to
see.

source             the picture as it is
vae                through the autoencoder and back: what no method on this model can be better than
sdedit             noise to a strength, then denoise with the prompt (Meng et al. 2022), in PyTorch with the same model,
                   sampler, guidance and number of steps as the product
imagic-without-b   the program without stage B, fine-tuning the model
imagic             the program as it ships
"""

import functools
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
import torch

import data
from edit_benchmark.edits import Edit
from edit_benchmark.program import Program
from edit_benchmark.store import Result, Store, fingerprint, model_fingerprint
from sampling import generate

STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
STRENGTH = 0.9  # of sdedit in the tables; docs/BENCHMARK.md says by which rule it is chosen
ETAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4)


@dataclass(frozen=True)
class Settings:
    """What all methods share."""

    program: Program
    preset: dict  # the model's, with what the user set; without eta
    eta: float  # of imagic in the tables
    etas: tuple[float, ...]  # of imagic's runs, `eta` among them
    strengths: tuple[float, ...]
    store: Store
    jobs: int  # processes of the program at a time

    @functools.cached_property
    def model(self) -> str:
        return model_fingerprint(self.program.model)

    @functools.cached_property
    def program_version(self) -> str:
        """Of the program and the library beside it, in which everything is."""
        return fingerprint(
            *(
                file.read_bytes()
                for file in (self.program.path, self.program.path.parent / "libimagic_edit.so")
                if file.exists()
            )
        )

    @functools.cached_property
    def pipeline(self):
        """The same model in diffusers."""
        import diffusers
        import transformers
        from diffusers.models.attention_processor import AttnProcessor

        # Progress of loading, advice on packages that are not needed.
        for library in (diffusers, transformers):
            library.utils.logging.set_verbosity_error()
            library.utils.logging.disable_progress_bar()
        # diffusers wants 1; 0 is what the reference implementation of Imagic has.
        warnings.filterwarnings("ignore", "(?s).*steps_offset", FutureWarning)
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(self.program.model, dtype=torch.float32)
        pipeline.unet.set_attn_processor(AttnProcessor())  # faster than the fused one on a CPU
        return pipeline


def run(families: set[str], edits: list[Edit], settings: Settings) -> dict[tuple[str, str], list[Result]]:
    """(name of an edit, method) -> results, one for each eta or strength."""
    makers = {
        "imagic": imagic,
        "imagic-without-b": imagic_without_b,
        "sdedit": sdedit,
        "vae": vae,
        "source": source,
        "truth": truth,
    }
    results = {}
    for family, make in makers.items():
        if family not in families:
            continue
        # The others take seconds at most, and PyTorch uses the threads itself.
        jobs = settings.jobs if family.startswith("imagic") else 1
        start = said = time.time()
        with ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(make, edit, settings): edit for edit in edits}
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    results[futures[future].name, family] = future.result()
                    now = time.time()
                    if now - said > 5 or done == len(edits):
                        said, left = now, (now - start) / done * (len(edits) - done)
                        print(
                            f"{family}: {done} of {len(edits)} edits, {left / 60:.1f} minutes left",
                            file=sys.stderr,
                            flush=True,
                        )
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return results


def imagic(edit: Edit, settings: Settings) -> list[Result]:
    return edit_with_program(edit, settings, settings.etas)


def imagic_without_b(edit: Edit, settings: Settings) -> list[Result]:
    return edit_with_program(edit, settings, (settings.eta,), tuning_steps=0)


def edit_with_program(edit: Edit, settings: Settings, etas: tuple[float, ...], **parameters) -> list[Result]:
    key = f"{edit.name}-imagic-" + fingerprint(
        settings.model, settings.program_version, settings.preset | parameters, edit.prompt, edit.source.tobytes()
    )
    results = settings.store.read(key, etas)
    if results is None:
        pictures, report = settings.program.edit(edit.source, edit.prompt, etas, **parameters)
        outputs = [output["seconds"] for output in report["outputs"]]
        # Only the first eta loads and tunes, and each would have to on its own.
        once = sum(seconds for stage, seconds in outputs[0].items() if stage != "generate")
        results = [Result(pictures[eta], once + seconds["generate"], eta) for eta, seconds in zip(etas, outputs)]
        settings.store.write(key, results)
    return results


@torch.no_grad()
def sdedit(edit: Edit, settings: Settings) -> list[Result]:
    """As the image-to-image pipeline of diffusers does, but with the latents' mean where that takes a sample."""
    key = f"{edit.name}-sdedit-" + fingerprint(
        settings.model,
        [settings.preset[name] for name in ("guidance", "sampling_steps")],
        seed(settings),
        edit.prompt,
        edit.source.tobytes(),
    )
    results = []
    for strength in settings.strengths:
        kept = settings.store.read(key, [strength])
        if kept is None:
            pipeline, schedule = settings.pipeline, settings.pipeline.scheduler
            start = time.time()
            x = encode(pipeline, edit.source)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed(settings)))
            steps, guidance = settings.preset["sampling_steps"], settings.preset["guidance"]
            x_t, first = noised(schedule, x, noise, steps, strength)
            e, e_null = embed(pipeline, edit.prompt), embed(pipeline, "")
            latents = generate(pipeline.unet, e, e_null, x_t, steps, guidance, schedule, first)
            kept = [Result(decode(pipeline, latents), time.time() - start, strength)]
            settings.store.write(key, kept)
        results += kept
    return results


def noised(schedule, x: torch.Tensor, noise: torch.Tensor, steps: int, strength: float) -> tuple[torch.Tensor, int]:
    """Latents with the noise of that strength, and the number of the step at which sampling begins."""
    first = steps - max(1, round(steps * strength))
    schedule.set_timesteps(steps)
    return schedule.add_noise(x, noise, schedule.timesteps[first : first + 1]), first


@torch.no_grad()
def vae(edit: Edit, settings: Settings) -> list[Result]:
    pipeline, start = settings.pipeline, time.time()
    return [Result(decode(pipeline, encode(pipeline, edit.source)), time.time() - start)]


def source(edit: Edit, _settings: Settings) -> list[Result]:
    return [Result(edit.source, 0.0)]


def truth(edit: Edit, _settings: Settings) -> list[Result]:
    """No method: what the measures say of the true result."""
    return [Result(edit.target, 0.0)]


def encode(pipeline, picture: np.ndarray) -> torch.Tensor:
    """(h, w, 3) uint8 to scaled latents (1, c, h/f, w/f)."""
    pixels = data.to_model_range(picture.transpose(2, 0, 1)[None])
    return pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor


def decode(pipeline, latents: torch.Tensor) -> np.ndarray:
    return data.to_pictures(pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample)[0]


def embed(pipeline, text: str) -> torch.Tensor:
    length = pipeline.text_encoder.config.max_position_embeddings
    tokens = pipeline.tokenizer([text], padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return pipeline.text_encoder(tokens.input_ids)[0]


def seed(settings: Settings) -> int:
    return int(settings.preset.get("seed", 0))
