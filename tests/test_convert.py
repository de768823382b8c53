"""Checkpoints of the papers' programs: converted networks compute what the originals' equations say.

The references are those of `workflow/originals.py`.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import types

import pytest
import torch
from originals import Weights, ddim, edm, guided, score_sde
from safetensors.torch import load_file, save_file
from test_cli import call

from fewstep.errors import UserError
from fewstep.models import convert, zoo
from fewstep.models.convert import LAYOUTS

# --- converted networks compute the same ---------------------------------------------------------------------------

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
T = torch.tensor([3.0, 612.5])
LABELS = torch.tensor([4, 0])


def converted(tmp_path, content, layout):
    torch.save(content, tmp_path / "original.pt")
    convert.convert(tmp_path / "original.pt", layout, tmp_path / "net.safetensors")
    return zoo.read_network(tmp_path / "net.safetensors")[0]


def assert_same(found, expected):
    """Equal up to float32's rounding in some tens of layers."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "shape", [{}, {"multiples": (1,), "attention": ()}, {"attention": (0, 2), "blocks": 1}, {"multiples": (1, 3, 1)}]
)
def test_ddim(tmp_path, shape):
    w = Weights()
    expected = ddim(w, X, T, **shape)
    assert_same(converted(tmp_path, dict(w), "ddim")(X, T, return_dict=False)[0], expected)


def test_ddims_averaged_weights_are_taken(tmp_path):
    w, trained = Weights(), Weights(seed=1)
    expected = ddim(w, X, T)
    ddim(trained, X, T)
    states = [{f"module.{name}": value for name, value in trained.items()}, {"state": {}}, 7, 1000, dict(w)]
    assert_same(converted(tmp_path, states, "ddim")(X, T, return_dict=False)[0], expected)


SHAPES = [{}, {"multiples": (1,), "attention": ()}, {"multiples": (1, 1, 2), "attention": (0, 1), "blocks": 1}]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ncsnpp", [False, True])
def test_score_sde(tmp_path, shape, ncsnpp):
    w, trained = Weights(), Weights(seed=1)
    expected = score_sde(w, X, T, ncsnpp=ncsnpp, **shape)
    score_sde(trained, X, T, ncsnpp=ncsnpp, **shape)
    if ncsnpp:
        trained["all_modules.0.W"] = w["all_modules.0.W"]  # drawn once, not trained
    ema = {"decay": 0.999, "num_updates": 9, "shadow_params": [v for k, v in w.items() if k != "all_modules.0.W"]}
    model = {"module.sigmas": torch.ones(7)} | {f"module.{name}": value for name, value in trained.items()}
    content = {"optimizer": {"state": {0: {"step": 3}}}, "model": model, "ema": ema, "step": 9}
    assert_same(converted(tmp_path, content, "score-sde")(X, T), expected)


@pytest.mark.parametrize("shape", [{}, {"multiples": (1, 1, 2), "attention": (16, 4), "blocks": 2}])
def test_edm(tmp_path, shape):
    w = Weights()
    expected = edm(w, X, T, **shape)
    assert_same(converted(tmp_path, dict(w), "edm")(X, T), expected)


@pytest.mark.parametrize("in_blocks", [True, False])
@pytest.mark.parametrize("classes", [5, 0])
def test_guided_diffusion(tmp_path, in_blocks, classes):
    w = Weights()
    shape = {"multiples": (1, 2, 2), "attention": (1,)} if classes else {"film": False, "attention": (0,)}
    expected = guided(w, X, T, LABELS, in_blocks=in_blocks, classes=classes, **shape)
    network = converted(tmp_path, dict(w), "guided-diffusion")
    assert_same(network(X, T, class_labels=LABELS if classes else None, return_dict=False)[0], expected)


def test_weights_in_safetensors_or_half_precision(tmp_path):
    w = Weights()
    expected = ddim(w, X, T)
    save_file(dict(w), tmp_path / "a.safetensors")
    convert.convert(tmp_path / "a.safetensors", "ddim", tmp_path / "b.safetensors")
    assert_same(zoo.read_network(tmp_path / "b.safetensors")[0](X, T, return_dict=False)[0], expected)
    network = converted(tmp_path, {name: value.half() for name, value in w.items()}, "ddim")
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


# --- what is refused -----------------------------------------------------------------------------------------------


def small(layout):
    w = Weights()
    if layout == "guided-diffusion":
        guided(w, X, T, LABELS, blocks=1)
    else:
        {"ddim": ddim, "score-sde": score_sde, "edm": edm}[layout](w, X, T)
    return dict(w)


@pytest.mark.parametrize("given", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_another_layout(tmp_path, given, layout):
    torch.save(small(given), tmp_path / "a.pt")
    if given == layout:
        convert.convert(tmp_path / "a.pt", layout, tmp_path / "b.safetensors")
        return
    with pytest.raises(UserError, match=rf"a\.pt is not of the layout {layout}: .*; supported layouts: ddim, "):
        convert.convert(tmp_path / "a.pt", layout, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_too_many_too_few_or_of_another_shape(tmp_path, layout):
    w = small(layout)
    last = next(reversed(w))
    wider = torch.cat([w[last], w[last]])
    for wrong in (w | {"extra.weight": torch.zeros(1)}, {k: v for k, v in w.items() if k != last}, w | {last: wider}):
        torch.save(wrong, tmp_path / "a.pt")
        with pytest.raises(UserError, match=rf"is not of the layout {layout}"):
            convert.convert(tmp_path / "a.pt", layout, tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ({"Conv.weight": torch.zeros(4, 3, 1, 1), "Conv.bias": torch.zeros(4)}, "a module with Conv"),
        ({"Conv_0.weight": torch.zeros(4, 3, 3, 3), "Conv_0.bias": torch.zeros(4)}, "a module with Conv_0"),
    ],
)
def test_other_variants_of_score_sdes_networks(tmp_path, module, what):
    """Input skips, and changes of resolution outside of the blocks."""
    w = small("score-sde") | {f"all_modules.5.{name}": value for name, value in module.items()}
    w = {name: value for name, value in w.items() if not name.startswith("all_modules.5.") or name[14:] in module}
    torch.save(w, tmp_path / "a.pt")
    with pytest.raises(UserError, match=what):
        convert.convert(tmp_path / "a.pt", "score-sde", tmp_path / "b.safetensors")


class Planted:
    """A pickle that would leave a trace if it were opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_anything_but_tensors_is_refused_and_named(tmp_path, zipped):
    content = {"model": small("ddim"), "args": argparse.Namespace(lr=1), "hook": Planted(tmp_path / "trace")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"a\.pt is refused: it holds .*argparse\.Namespace"):
        convert.convert(tmp_path / "a.pt", "ddim", tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_edms_snapshots_are_refused_with_the_way_out(tmp_path, protocol, monkeypatch):
    class Snapshot:
        def __reduce__(self):
            return reconstruct, ({},)

    def reconstruct(meta):
        raise AssertionError("opened")

    reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    module = types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = reconstruct
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"ema": Snapshot()}, protocol))
    with pytest.raises(UserError, match=r"snapshot of EDM.*state_dict\(\).*--layout edm"):
        convert.convert(tmp_path / "edm.pkl", "edm", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "missing", "folder", "pickle", "list", "nested"])
def test_other_files(tmp_path, kind):
    path = tmp_path / "a.pt"
    torch.save(small("ddim"), path)
    whole = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind in ("list", "nested"):
        torch.save([1, 2] if kind == "list" else {"state_dict": small("ddim"), "epoch": 3}, path)
    elif kind != "missing":
        contents = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello", "pickle": pickle.dumps({"a": 1})}
        path.write_bytes(contents[kind])
    with pytest.raises(UserError) as caught:
        convert.convert(path, "ddim", tmp_path / "b.safetensors")
    assert "\n" not in str(caught.value) and not (tmp_path / "b.safetensors").exists()
    if kind == "nested":
        assert "only state_dict, epoch" in str(caught.value)


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command(capsys, tmp_path):
    torch.save(small("ddim"), tmp_path / "a.pt")
    out = tmp_path / "net.safetensors"
    code, said, err = call(capsys, "convert", str(tmp_path / "a.pt"), "--layout", "ddim", "--out", str(out))
    assert code == 0 and not err and str(out) in said
    assert zoo.sha256(out) in said and f"{sum(v.numel() for v in load_file(out).values()):,} weights" in said
    assert call(capsys, "list", "layouts")[1].count("\n") == len(LAYOUTS)


@pytest.mark.parametrize(
    ("source", "layout", "out", "message"),
    [
        ("a.pt", "ddmi", "b.safetensors", "unknown layout 'ddmi'; did you mean ddim"),
        ("b.pt", "ddim", "b.safetensors", "cannot read"),
        ("a.pt", "score-sde", "b.safetensors", "is not of the layout score-sde"),
        ("a.pt", "ddim", "b.pt", "must end in .safetensors"),
        ("a.pt", "ddim", "folder/b.safetensors", "does not exist"),
    ],
)
def test_mistakes_at_the_command_line(capsys, tmp_path, monkeypatch, source, layout, out, message):
    monkeypatch.chdir(tmp_path)
    torch.save(small("ddim"), "a.pt")
    code, said, err = call(capsys, "convert", source, "--layout", layout, "--out", out)
    assert code == 2 and not said and message in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
