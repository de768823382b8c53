r"""Checkpoints in the format of the papers' programs, converted once to safetensors.

========================  ============================================================================================
layout                    what it is
========================  ============================================================================================
``ddim``                  the U-Net of DDIM's program, which PNDM's and others took over: CelebA 64×64
``score-sde``             score SDE's DDPM++ and its NCSN++ with a residual input pyramid, in PyTorch: CIFAR-10
``guided-diffusion``      guided-diffusion's U-Net with heads of 64 channels and the new attention order: ImageNet 64×64
``edm``                   EDM's DDPM++ without labels, taken out of its pickle: CIFAR-10
========================  ============================================================================================

Files are opened with ``torch.load(weights_only=True)``, which runs no code; what holds anything but tensors and plain
containers is refused. Where a file has averaged weights, those are taken, as the programs do when they sample.
The architecture is read off the names and shapes. All other layouts are refused.
"""

from __future__ import annotations

import itertools
import json
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError, unknown
from ..files import write_atomically
from .checkpoints import SUFFIX, sha256
from .declared import build

__all__ = ["LAYOUTS", "Converted", "Layout", "convert", "read", "weights"]

Weights = dict[str, Tensor]

EDM_ADVICE = (
    "it is a snapshot of EDM, which holds programs; in a copy of EDM's program run torch.save(pickle.load("
    "open(FILE, 'rb'))['ema'].float().state_dict(), 'edm.pt') and convert edm.pt with --layout edm"
)


class Foreign(Exception):
    """Weights that are not of the layout; the text says why."""


# --- what a file holds ---------------------------------------------------------------------------------------------


def read(path: Path) -> Any:
    """The content of a checkpoint: tensors in plain containers.

    Raises:
        UserError: if it cannot be read, is cut off, or holds anything else, which is named.
    """
    path = Path(path)
    if path.suffix == SUFFIX:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError):
            raise UserError(f"cannot read {path}: a whole safetensors file is needed") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols: what it cannot read, it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        names = _foreign_names(path, str(error))
        if any(name.startswith("torch_utils.persistence") for name in names):
            raise UserError(f"{path} is refused: {EDM_ADVICE}") from None
        what = f"it holds {', '.join(names)}" if names else "it is not a file of torch.save"
        raise UserError(f"{path} is refused: {what}; only tensors in dictionaries and lists are read") from None
    except Exception:  # a damaged file makes the unpickler fail in any way
        raise UserError(f"{path} is damaged or cut off, or no file of torch.save; copy it anew") from None


def _foreign_names(path: Path, message: str) -> list[str]:
    """The classes and functions that a refused file asks for, found without running anything."""
    try:
        found: Iterable[str] = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError):  # not the format of torch.save since 1.6
        found = [*re.findall(r"GLOBAL (\S+) was not", message), *_pickled_names(path)]
    return sorted({name for name in found if not name.startswith(("torch._utils", "collections."))})


def _pickled_names(path: Path) -> set[str]:
    names: set[str] = set()
    strings: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(path.read_bytes()):
            if code.name == "GLOBAL":
                names.add(str(argument).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                names.add(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        pass  # the pickle ends, and raw tensors begin
    return names


def weights(content: Any) -> tuple[Weights, bool]:
    """The network's weights in what :func:`read` returned, averaged ones first; and whether they are averaged.

    A dictionary of tensors; DDIM's list, whose first entry is one and whose last may be the averaged one; or score
    SDE's ``{"model": …, "ema": …}``, where the averaged weights are a list in the order of the trained parameters.

    Raises:
        UserError: for any other content.
    """
    averaged: Any = None
    if isinstance(content, list | tuple) and content and _is_weights(content[0]):
        content, averaged = content[0], content[-1]
    elif isinstance(content, Mapping) and _is_weights(content.get("model")):
        averaged = content.get("ema")
        content = content["model"]
    if not _is_weights(content):
        inside = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"no weights where they are looked for, only {inside}; a dictionary of tensors is needed")
    found = {name.removeprefix("module."): value for name, value in content.items()}
    if isinstance(averaged, Mapping) and "shadow_params" in averaged:
        fixed = ("sigmas", "all_modules.0.W")  # tensors that training does not change
        names, values = [name for name in found if name not in fixed], averaged["shadow_params"]
        if [found[name].shape for name in names] != [value.shape for value in values]:
            raise UserError("the averaged weights do not match the network's; a whole checkpoint is needed")
        return found | dict(zip(names, values, strict=True)), True
    if _is_weights(averaged):
        averaged = {name.removeprefix("module."): value for name, value in averaged.items()}
        if averaged.keys() <= found.keys():
            return found | averaged, averaged is not content
    return found, False


def _is_weights(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())


# --- DDIM ----------------------------------------------------------------------------------------------------------


def _renamed(given: Weights, rules: Iterable[tuple[str, str]]) -> Weights:
    """Weights under new names: of the rules (pattern, replacement), the first that fits a whole name holds."""
    compiled = [(re.compile(pattern), to) for pattern, to in rules]
    found: Weights = {}
    for name, value in given.items():
        for pattern, to in compiled:
            if match := pattern.fullmatch(name):
                found[match.expand(to)] = value
                break
        else:
            raise Foreign(f"it has {name}")
    return found


def _count(given: Weights, pattern: str) -> int:
    """How many different first groups a pattern finds at the beginning of names."""
    return len({match[1] for name in given if (match := re.match(pattern, name))})


def _unet2d(
    image: tuple[int, int], widths: list[int], layers: int, down: list[str], up: list[str], **more: Any
) -> dict[str, Any]:
    """A configuration of diffusers' ``UNet2DModel``; ``up`` is given finest first, as ``down`` is."""
    return {
        "in_channels": image[0],
        "out_channels": image[1],
        "layers_per_block": layers,
        "block_out_channels": widths,
        "down_block_types": down,
        "up_block_types": up[::-1],
        **more,
    }


def _ddim(given: Weights) -> tuple[dict[str, Any], Weights]:
    levels = _count(given, r"down\.(\d+)\.")
    attends = [f"down.{i}.attn.0.q.weight" in given for i in range(levels)]
    config = _unet2d(
        (given["conv_in.weight"].shape[1], given["conv_out.weight"].shape[0]),
        [given[f"down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)],
        _count(given, r"down\.0\.block\.(\d+)\."),
        ["AttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        ["AttnUpBlock2D" if yes else "UpBlock2D" for yes in attends],
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )
    parts = (
        {"norm1": "norm1", "conv1": "conv1", "temb_proj": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
        | {"nin_shortcut": "conv_shortcut"}  # of a residual block
        | {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}  # of an attention
    )
    places: list[tuple[str, str]] = [
        (r"temb\.dense\.0", "time_embedding.linear_1"),
        (r"temb\.dense\.1", "time_embedding.linear_2"),
        ("conv_in", "conv_in"),
        ("norm_out", "conv_norm_out"),
        ("conv_out", "conv_out"),
    ]
    prefixes = [(r"mid\.block_1", "mid_block.resnets.0"), (r"mid\.block_2", "mid_block.resnets.1")]
    prefixes.append((r"mid\.attn_1", "mid_block.attentions.0"))
    for i in range(levels):
        for ours, theirs, change in (("down", i, "downsample"), ("up", levels - 1 - i, "upsample")):
            prefixes.append((rf"{ours}\.{i}\.block\.(\d+)", rf"{ours}_blocks.{theirs}.resnets.\1"))
            prefixes.append((rf"{ours}\.{i}\.attn\.(\d+)", rf"{ours}_blocks.{theirs}.attentions.\1"))
            places.append((rf"{ours}\.{i}\.{change}\.conv", f"{ours}_blocks.{theirs}.{change}rs.0.conv"))
    places += [(rf"{prefix}\.{part}", f"{to}.{name}") for prefix, to in prefixes for part, name in parts.items()]
    rules = [(rf"{place}\.(?P<kind>weight|bias)", rf"{to}.\g<kind>") for place, to in places]
    found = _renamed(given, rules)
    for name, value in found.items():
        if ".attentions." in name and value.ndim == 4:  # a convolution of one pixel is a linear map
            found[name] = value.flatten(1)
    return config, found


# --- score SDE and EDM ---------------------------------------------------------------------------------------------

RESIDUAL = {"GroupNorm_0": "norm1", "Conv_0": "conv1", "Dense_0": "time", "GroupNorm_1": "norm2", "Conv_1": "conv2"}
RESIDUAL |= {"Conv_2": "skip"}
ATTENTION = {"GroupNorm_0": "norm", "NIN_0": "q", "NIN_1": "k", "NIN_2": "v", "NIN_3": "out"}
PYRAMID = {"Conv2d_0": "conv"}


def _score_sde(given: Weights) -> tuple[dict[str, Any], Weights]:
    groups: dict[int, Weights] = {}
    for name, value in given.items():
        if match := re.fullmatch(r"all_modules\.(\d+)\.(.+)", name):
            groups.setdefault(int(match[1]), {})[match[2]] = value
        elif name != "sigmas":  # the noise levels of discrete training
            raise Foreign(f"it has {name}")
    return _score_unet([groups[i] for i in sorted(groups)])


def _transposed(value: Tensor) -> Tensor:
    """A matrix transposed, with or without axes of one pixel; a vector as it is."""
    return value if value.ndim == 1 else value.flatten(1).T


def _letter(group: Weights) -> str:
    """What a module of score SDE's list is: residual block, one that resamples, attention, pyramid level, another."""
    parts = {name.rpartition(".")[0] for name in group}
    if parts <= RESIDUAL.keys() and "Dense_0" in parts:
        wide_out, wide_in = group["Conv_0.weight"].shape[:2]
        return "S" if "Conv_2" in parts and wide_in == wide_out else "R"
    if parts == ATTENTION.keys():
        return "A"
    if parts == PYRAMID.keys():
        return "P"
    if parts == {""}:
        return "."
    raise Foreign(f"it has a module with {', '.join(sorted(parts))}, as other variants of its networks have")


def _score_unet(groups: list[Weights]) -> tuple[dict[str, Any], Weights]:
    """Configuration and weights of a ``ScoreUNet`` from modules in score SDE's order and names.

    With two blocks per level and attention at the second of two levels the modules read RRS·RARA RAR RRRA S·RRR.
    """
    found: Weights = {}
    if groups[0].keys() == {"W"}:
        found["frequencies"] = groups.pop(0)["W"]
    letters = "".join(map(_letter, groups))
    if not re.fullmatch(r"\.{3}[RSAP]+\.{2}", letters):
        raise Foreign("its modules do not follow each other as in DDPM++ or NCSN++ with a residual input pyramid")
    pieces = letters[3:-2].split("S")
    levels = len(pieces) // 2 + 1
    starts = [3, *itertools.accumulate((len(piece) + 1 for piece in pieces), initial=3)][1:]
    down = [piece.removeprefix("P") for piece in pieces[:levels]]
    firsts = [groups[start + piece.startswith("P")] for start, piece in zip(starts, pieces[:levels], strict=False)]
    config = {
        "image_channels": groups[2]["weight"].shape[1],
        "base": groups[2]["weight"].shape[0],
        "channels": [first["Conv_0.weight"].shape[0] for first in firsts],
        "layers": (down[-1].count("R") - 3) // 2,  # the coarsest level down and up, and the middle
        "attention": [level for level, piece in enumerate(down) if piece.startswith("RA")],
        "fourier": "frequencies" in found,
        "pyramid": "P" in letters,
    }
    network = build("score-unet", config, empty=True)
    places = {module: name for name, module in network.named_modules()}
    modules = [module for module in network.in_order() if not isinstance(module, torch.nn.Identity)]  # type: ignore[operator]
    if len(modules) != len(groups):
        raise Foreign(f"it has {len(groups)} modules where {len(modules)} are expected")
    parts = {"R": RESIDUAL, "S": RESIDUAL, "A": ATTENTION, "P": PYRAMID, ".": {"": ""}}
    for module, letter, group in zip(modules, letters, groups, strict=True):
        for name, value in group.items():
            part, _, kind = name.rpartition(".")
            if letter == "A" and part != "GroupNorm_0":  # "network in network": x W + b
                kind, value = {"W": "weight", "b": "bias"}[kind], _transposed(value)
            found[".".join(filter(None, (places[module], parts[letter][part], kind)))] = value
    return config, found


def _edm(given: Weights) -> tuple[dict[str, Any], Weights]:
    """EDM's names in score SDE's: blocks that attend are a residual block and an attention there."""
    residual = {"norm0": "GroupNorm_0", "conv0": "Conv_0", "affine": "Dense_0", "norm1": "GroupNorm_1"}
    residual |= {"conv1": "Conv_1", "skip": "Conv_2"}
    groups: dict[str, Weights] = {}
    for name, value in given.items():
        name = name.removeprefix("model.")
        block, _, rest = name.rpartition(".")
        if block == "map_augment" or rest == "resample_filter":
            continue  # augmentation is off where images are drawn; the filter is no weight
        if match := re.fullmatch(r"((?:enc|dec)\.\d+x\d+_(?:block\d+|down|up|in\d))\.(\w+)\.(weight|bias)", name):
            block, part, kind = match.groups()
            attention = groups.setdefault(f"{block}+attention", {}) if part in ("norm2", "qkv", "proj") else {}
            if part == "norm2":
                attention[f"GroupNorm_0.{kind}"] = value
            elif part == "qkv":  # query, key and value of a channel follow each other
                for i in range(3):
                    attention[f"NIN_{i}.{'Wb'[kind == 'bias']}"] = _transposed(value[i::3])
            elif part == "proj":
                attention[f"NIN_3.{'Wb'[kind == 'bias']}"] = _transposed(value)
            elif part in residual:
                groups.setdefault(block, {})[f"{residual[part]}.{kind}"] = value
            else:
                raise Foreign(f"it has {name}")
        elif re.fullmatch(r"map_layer[01]|enc\.\d+x\d+_conv|dec\.\d+x\d+_aux_(norm|conv)", block):
            groups.setdefault(block, {})[rest] = value
        else:
            raise Foreign(f"it has {name}")
    return _score_unet(list(groups.values()))


# --- guided-diffusion ----------------------------------------------------------------------------------------------

HEAD = 64
"""Channels of an attention head in guided-diffusion's networks."""


def _guided_diffusion(given: Weights) -> tuple[dict[str, Any], Weights]:
    steps, back = _count(given, r"input_blocks\.(\d+)\."), _count(given, r"output_blocks\.(\d+)\.")
    # With L levels of n blocks: 1 + L n + L − 1 modules down, L (n + 1) up. Changes of resolution tell L.
    changes = [
        name for name in given if re.fullmatch(r"output_blocks\.\d+\.([12]\.conv|[12]\.in_layers\.2)\.weight", name)
    ]
    levels = len(changes) + 1
    layers = back // levels - 1
    if steps != back or back != levels * (layers + 1) or layers < 1:
        raise Foreign(f"{steps} modules down and {back} up are no {levels} levels")
    in_blocks = not changes or changes[0].endswith("in_layers.2.weight")
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    attends = [f"input_blocks.{i}.1.qkv.weight" in given for i in firsts]
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if in_blocks else ("DownBlock2D", "UpBlock2D")
    scaled = (
        given["middle_block.0.emb_layers.1.weight"].shape[0] == 2 * given["middle_block.0.in_layers.0.bias"].shape[0]
    )
    config = _unet2d(
        (given["input_blocks.0.0.weight"].shape[1], given["out.2.weight"].shape[0]),
        [given[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in firsts],
        layers,
        ["AttnDownBlock2D" if yes else plain[0] for yes in attends],
        ["AttnUpBlock2D" if yes else plain[1] for yes in attends],
        attention_head_dim=HEAD,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift" if scaled else "default",
        downsample_type="resnet" if in_blocks else "conv",
        upsample_type="resnet" if in_blocks else "conv",
    )
    if "label_emb.weight" in given:
        config["num_class_embeds"] = given["label_emb.weight"].shape[0]

    places: list[tuple[str, str]] = [
        (r"time_embed\.0", "time_embedding.linear_1"),
        (r"time_embed\.2", "time_embedding.linear_2"),
        ("label_emb", "class_embedding"),
        (r"input_blocks\.0\.0", "conv_in"),
        (r"out\.0", "conv_norm_out"),
        (r"out\.2", "conv_out"),
    ]
    blocks = [(r"middle_block\.0", "mid_block.resnets.0"), (r"middle_block\.2", "mid_block.resnets.1")]
    attentions = [(r"middle_block\.1", "mid_block.attentions.0")]
    for level, first in enumerate(firsts):
        for j in range(layers):
            blocks.append((rf"input_blocks\.{first + j}\.0", f"down_blocks.{level}.resnets.{j}"))
            attentions.append((rf"input_blocks\.{first + j}\.1", f"down_blocks.{level}.attentions.{j}"))
        shrink = rf"input_blocks\.{first + layers}\.0"
        blocks.append((shrink, f"down_blocks.{level}.downsamplers.0"))
        places.append((rf"{shrink}\.op", f"down_blocks.{level}.downsamplers.0.conv"))
        for j in range(layers + 1):
            i = level * (layers + 1) + j
            blocks.append((rf"output_blocks\.{i}\.0", f"up_blocks.{level}.resnets.{j}"))
            attentions.append((rf"output_blocks\.{i}\.1", f"up_blocks.{level}.attentions.{j}"))
        grow = rf"output_blocks\.{level * (layers + 1) + layers}\.[12]"
        blocks.append((grow, f"up_blocks.{level}.upsamplers.0"))
        places.append((rf"{grow}\.conv", f"up_blocks.{level}.upsamplers.0.conv"))
    residual = {r"in_layers\.0": "norm1", r"in_layers\.2": "conv1", r"emb_layers\.1": "time_emb_proj"}
    residual |= {r"out_layers\.0": "norm2", r"out_layers\.3": "conv2", "skip_connection": "conv_shortcut"}
    attention = {"norm": "group_norm", "proj_out": "to_out.0"}
    attention |= {f"to_{letter}": f"to_{letter}" for letter in "qkv"}
    for part, name_here in residual.items():
        places += [(rf"{block}\.{part}", f"{to}.{name_here}") for block, to in blocks]
    for part, name_here in attention.items():
        places += [(rf"{block}\.{part}", f"{to}.{name_here}") for block, to in attentions]
    split: Weights = {}
    for name, value in given.items():
        if ".qkv." not in name:
            split[name] = value.flatten(1) if name.endswith("proj_out.weight") else value
            continue
        for letter, third in zip("qkv", value.chunk(3), strict=True):
            split[name.replace(".qkv.", f".to_{letter}.")] = third.flatten(1) if third.ndim > 1 else third
    return config, _renamed(split, [(rf"{place}\.(?P<kind>weight|bias)", rf"{to}.\g<kind>") for place, to in places])


# --- all layouts ---------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """A program's format.

    Attributes:
        title: what it is.
        architecture: a key of :data:`fewstep.models.declared.ARCHITECTURES`.
        convert: weights in the original's names to a configuration and weights of that architecture.
    """

    title: str
    architecture: str
    convert: Callable[[Weights], tuple[dict[str, Any], Weights]]


LAYOUTS = {
    "ddim": Layout("DDIM's U-Net", "unet2d", _ddim),
    "score-sde": Layout("score SDE's DDPM++ and NCSN++", "score-unet", _score_sde),
    "guided-diffusion": Layout("guided-diffusion's U-Net", "unet2d", _guided_diffusion),
    "edm": Layout("EDM's DDPM++", "score-unet", _edm),
}
"""The formats that are read, by name."""


class Converted(NamedTuple):
    """What a conversion wrote.

    Attributes:
        architecture: a key of :data:`fewstep.models.declared.ARCHITECTURES`.
        config: its arguments.
        averaged: whether the file had averaged weights.
        parameters: number of weights.
        sha256: of the written file.
    """

    architecture: str
    config: dict[str, Any]
    averaged: bool
    parameters: int
    sha256: str


def convert(source: Path, layout: str, out: Path) -> Converted:
    """Write the network of an original-format checkpoint as a safetensors file, float32.

    The file's metadata say the architecture, its configuration, the layout and the SHA-256 of the source, so that
    :func:`fewstep.models.zoo.load` builds the network from the file alone.

    Raises:
        UserError: if the layout is unknown, or the file is not one of it, or cannot be read or written.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    form = LAYOUTS[layout]
    given, averaged = weights(read(source))
    try:
        config, found = form.convert(given)
        network = build(form.architecture, config, empty=True)
        expected = {name: value.shape for name, value in network.state_dict().items()}
        for name in sorted(expected.keys() ^ found.keys()):
            raise Foreign(f"it {'lacks' if name in expected else 'has, beyond the network,'} what becomes {name}")
        for name, shape in expected.items():
            if found[name].shape != shape:
                raise Foreign(f"{name} has shape {tuple(found[name].shape)}, {tuple(shape)} is expected")
    except Foreign as error:
        reason = str(error)
    except KeyError as error:
        reason = f"it has no {error.args[0]}"
    except (IndexError, ValueError, ZeroDivisionError) as error:
        reason = f"its shapes make no network ({error})"
    else:
        from safetensors.torch import save

        facts = {"architecture": form.architecture, "config": config, "layout": layout, "source": sha256(source)}
        blob = save({k: v.float().contiguous() for k, v in sorted(found.items())}, {"fewstep": json.dumps(facts)})
        write_atomically(Path(out), lambda path: path.write_bytes(blob))
        count = sum(value.numel() for value in found.values())
        return Converted(form.architecture, config, averaged, count, sha256(out))
    raise UserError(f"{source} is not of the layout {layout}: {reason}; supported layouts: {', '.join(LAYOUTS)}")
