"""The network of a profile: what it is built from, where it runs, and samples that it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import profiles
from ..errors import unknown
from ..plan import Plan


def config_of(setting: profiles.Profile) -> dict[str, Any]:
    """What the profile's network is built from (``shape``, channels, …), by the checkpoints' manifest.

    Raises:
        UserError: if the manifest does not name it.
    """
    from .. import models

    entries = models.manifest()
    file = f"{setting.model}.safetensors"
    if file not in entries:
        raise unknown("checkpoint", setting.model, [Path(name).stem for name in entries])
    config: dict[str, Any] = entries[file]["config"]
    return config


def device() -> str:
    """torch's name of the device that networks run on: the GPU, where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def on_device(network: Any) -> Any:
    """The network, moved there."""
    return network.to(device())


def draw(setting: profiles.Profile, plan: Plan, network: Any, samples: int, seed: int, batch_size: int) -> Any:
    """The samples 0 … ``samples`` − 1 of a seed, shape (samples, C, H, W), on the CPU."""
    from .. import models
    from ..run import generate

    if hasattr(network, "to"):  # a wrapper's network is there already
        network = on_device(network)
    return generate(
        plan,
        models.normalised(network, setting.process()),
        config_of(setting)["shape"],
        range(samples),
        seed=seed,
        batch_size=batch_size,
        device=device(),
        progress=True,
    )
