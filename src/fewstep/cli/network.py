"""The network of a profile: where it runs, and samples that it draws."""

from __future__ import annotations

from typing import Any

from .. import profiles
from ..plan import Plan


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def on_device(model: Any) -> Any:
    return model.to(device())


def draw(setting: profiles.Profile, plan: Plan, model: Any, samples: int, seed: int, batch_size: int) -> Any:
    from .. import models
    from ..run import generate

    shape = models.manifest()[f"{setting.model}.safetensors"]["config"]["shape"]  # asks for no images
    if hasattr(model, "to"):  # a wrapper's network is there already
        model = on_device(model)
    model = models.normalised(model, setting.process())
    return generate(
        plan, model, shape, range(samples), seed=seed, batch_size=batch_size, device=device(), progress=True
    )
