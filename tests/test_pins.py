"""The lock file of the papers' networks: what enters it, when, and what is refused from then on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_cli import call
from test_zoo import COMMIT, TINY, WEIGHTS, T, X, entry, locked, of_hub, tiny_hub, write

from fewstep.errors import UserError
from fewstep.models import declared, pins, zoo

ROOT = Path(__file__).resolve().parents[1]
NOBODY = "http://127.0.0.1:9"
OTHER = "f" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with tiny_hub(tmp_path, monkeypatch) as server:
        write(tmp_path, tiny=of_hub())
        yield server


def of_file():
    return entry(source={"file": "tiny.safetensors", "layout": "ddim", "original": "tiny.ckpt of nobody"})


def another(tmp_path):
    """The files of a network of the same architecture with other weights."""
    torch.manual_seed(5)
    declared.build("unet2d", TINY).save_pretrained(tmp_path / "another")
    return {path.name: path.read_bytes() for path in (tmp_path / "another").iterdir()}


def fetched(hub):
    """The files that were asked for, not only about."""
    asked = [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    return [path.rpartition("/")[2] for path in asked]


def kept(tmp_path):
    """The files of weights in the cache, whole or in part."""
    return [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.stat().st_size > 100_000]


def python(root, endpoint, *arguments):
    """A process whose clone is ``root`` and whose hub is ``endpoint``."""
    given = {"FEWSTEP_ROOT": root, "HF_ENDPOINT": endpoint, "PYTHONPATH": ROOT / "src", "OMP_NUM_THREADS": 1}
    environment = os.environ | {name: str(value) for name, value in given.items()}
    return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=-1, stderr=-1, text=True)


def fewstep(root, endpoint, *arguments):
    process = python(root, endpoint, "-c", "from fewstep.cli import main; main()", *arguments)
    out, err = process.communicate()
    return process.returncode, out, err


# --- the first use, and those after it -----------------------------------------------------------------------------


def test_the_first_use_pins_and_says_so(hub, tmp_path, capsys):
    model = zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    said = f"tiny is pinned to google/tiny at {COMMIT} from now on; git commit data/models.lock.json\n"
    assert capsys.readouterr().out == said
    assert pins.read(tmp_path) == {"tiny": locked(hub.digest, COMMIT, WEIGHTS)}
    assert model.provenance == {"hub": "google/tiny", "revision": COMMIT, "sha256": hub.digest}
    asked = len(hub.asked)
    for endpoint in (hub.url, NOBODY):  # it is kept
        assert torch.equal(zoo.load("tiny", root=tmp_path, endpoint=endpoint)(X, T), hub.expected)
    assert capsys.readouterr().out == "" and len(hub.asked) == asked


def test_a_moved_main_does_not_move_a_pinned_network(hub, tmp_path, monkeypatch):
    zoo.pin(root=tmp_path, endpoint=hub.url)
    hub.main, hub.commits[OTHER] = OTHER, another(tmp_path)
    model = zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    assert model.provenance["revision"] == COMMIT and torch.equal(model(X, T), hub.expected)
    assert zoo.pin(["tiny"], root=tmp_path, endpoint=hub.url)["tiny"].revision == COMMIT
    found = zoo.pin(["tiny"], again=True, root=tmp_path, endpoint=hub.url)
    assert found == pins.read(tmp_path) and found["tiny"].revision == OTHER
    model = zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    assert model.provenance["revision"] == OTHER and not torch.equal(model(X, T), hub.expected)


def test_the_wanted_commit_is_the_one_that_is_pinned(hub, tmp_path):
    hub.main, hub.commits[OTHER] = OTHER, another(tmp_path)
    write(tmp_path, tiny=of_hub(COMMIT))
    assert zoo.load("tiny", root=tmp_path, endpoint=hub.url).provenance["revision"] == COMMIT
    assert pins.read(tmp_path) == {"tiny": locked(hub.digest, COMMIT, WEIGHTS)}


def test_a_pinned_commit_that_the_hub_has_no_more(hub, tmp_path):
    zoo.pin(root=tmp_path, endpoint=hub.url)
    hub.main, hub.commits = OTHER, {OTHER: hub.files}
    with pytest.raises(UserError, match=f"has no revision {COMMIT}; .* fewstep pin --again tiny") as caught:
        zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    assert "\n" not in str(caught.value) and pins.read(tmp_path)["tiny"].revision == COMMIT


def test_other_content_at_the_same_commit_is_refused(hub, tmp_path, monkeypatch):
    zoo.pin(root=tmp_path, endpoint=hub.url)
    hub.files[WEIGHTS] = another(tmp_path)[WEIGHTS]
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{WEIGHTS} of tiny has SHA-256 .* pins {hub.digest}") as caught:
            zoo.load("tiny", root=tmp_path, endpoint=hub.url)
        assert "it is not kept; fewstep pin --again tiny pins it anew" in str(caught.value)
        assert "\n" not in str(caught.value) and not kept(tmp_path)
    assert pins.read(tmp_path) == {"tiny": locked(hub.digest, COMMIT, WEIGHTS)}
    zoo.pin(["tiny"], again=True, root=tmp_path, endpoint=hub.url)
    zoo.load("tiny", root=tmp_path, endpoint=hub.url)


def test_a_damaged_file_in_the_cache_is_named(hub, tmp_path):
    """It may be the only copy, so it stays until the user deletes what the message names."""
    zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    (file,) = {path.resolve() for path in kept(tmp_path)}
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    what = rf"{COMMIT}/{WEIGHTS} of tiny has SHA-256 .*; delete {file}, and it is fetched again"
    with pytest.raises(UserError, match=what):
        zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    assert kept(tmp_path)
    file.unlink()
    zoo.load("tiny", root=tmp_path, endpoint=hub.url)


@pytest.mark.parametrize(
    ("stated", "message"),
    [("0" * 64, f"{WEIGHTS} of tiny has SHA-256 .*, the hub states 00.*; it is not kept"), ("a" * 40, "no SHA-256 of")],
)
def test_a_hub_that_states_something_else_than_it_has(hub, tmp_path, stated, message):
    hub.states[WEIGHTS] = stated
    with pytest.raises(UserError, match=message) as caught:
        zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    assert "\n" not in str(caught.value) and not kept(tmp_path) and not (tmp_path / pins.FILE).exists()
    hub.states.clear()
    zoo.load("tiny", root=tmp_path, endpoint=hub.url)


def test_two_processes_at_once(hub, tmp_path):
    """Each network is fetched once and pinned once, by whichever process comes first."""
    write(tmp_path, one=of_hub(), two=of_hub(), three=of_hub())
    script = "import sys; from fewstep.models import zoo; [zoo.load(name) for name in sys.argv[1:]]"
    orders = (["one", "two", "three"], ["three", "two", "one"])
    processes = [python(tmp_path, hub.url, "-c", script, *names) for names in orders]
    ends = [(*process.communicate(), process.returncode) for process in processes]
    assert [code for *_, code in ends] == [0, 0], ends
    lines = "".join(out for out, *_ in ends).splitlines()
    assert sorted(line.split()[0] for line in lines) == ["one", "three", "two"]
    assert pins.read(tmp_path) == dict.fromkeys(("one", "two", "three"), locked(hub.digest, COMMIT, WEIGHTS))
    assert sorted(fetched(hub)) == ["config.json", WEIGHTS]


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_fetches_no_weights(hub, tmp_path):
    write(tmp_path, tiny=of_hub(), other=of_hub(COMMIT), file=of_file())
    code, out, err = fewstep(tmp_path, hub.url, "pin", "other")
    assert (code, err) == (0, "")
    assert out == f"other: google/tiny at {COMMIT}\nnow git commit data/models.lock.json\n"
    code, out, _ = fewstep(tmp_path, hub.url, "pin")
    expected = [f"other: google/tiny at {COMMIT}, as before", f"tiny: google/tiny at {COMMIT}"]
    assert code == 0 and sorted(out.splitlines()[:2]) == expected
    assert pins.read(tmp_path) == dict.fromkeys(("other", "tiny"), locked(hub.digest, COMMIT, WEIGHTS))
    assert fetched(hub) == []


def test_the_command_without_a_network(hub, tmp_path):
    code, out, err = fewstep(tmp_path, NOBODY, "pin")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(f"fewstep: {NOBODY}/google/tiny cannot be reached .*, which pinning tiny needs once", err)
    assert not (tmp_path / pins.FILE).exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tyni"], r"unknown network in data/models\.yml 'tyni'; did you mean tiny"),
        (["file"], r"the weights of file are not at hand: get tiny\.ckpt of nobody"),
    ],
)
def test_what_cannot_be_pinned(hub, tmp_path, names, message):
    write(tmp_path, tiny=of_hub(), file=of_file())
    with pytest.raises(UserError, match=message):
        zoo.pin(["tiny", *names], root=tmp_path, endpoint=hub.url)
    assert not (tmp_path / pins.FILE).exists()


def test_all_or_none_are_pinned(hub, tmp_path):
    write(tmp_path, a=of_hub(), b=of_hub(repository="google/tyni"))
    with pytest.raises(UserError, match=r"there is no .*google/tyni"):
        zoo.pin(root=tmp_path, endpoint=hub.url)
    assert pins.read(tmp_path) == {}


def test_the_list_says_what_is_pinned(capsys):
    rows = {line.split()[0]: line for line in call(capsys, "list", "models")[1].splitlines()}
    assert rows["stable-diffusion"].endswith("pinned to commit 4e63672c0310")
    known = pins.read()
    assert all(("pinned at first use" in row) != (name in known) for name, row in rows.items())


# --- the file ------------------------------------------------------------------------------------------------------


def test_what_is_pinned_is_what_is_declared():
    known = declared.records()
    for name in pins.read():
        assert pins.of(name, known[name]) is not None


@pytest.mark.parametrize(
    ("record", "pin"),
    [
        (of_hub(repository="google/other"), locked("0" * 64, COMMIT, WEIGHTS)),
        (of_hub(OTHER), locked("0" * 64, COMMIT, WEIGHTS)),
        (of_hub(), locked("0" * 64, COMMIT, "model.safetensors")),
        (of_hub(), pins.Pin(hub="google/tiny", revision=COMMIT, sha256={WEIGHTS: "0" * 64, "b.bin": "0" * 64})),
        (of_hub(), locked("0" * 64)),
        (of_file(), locked("0" * 64, file="other.safetensors")),
        (of_file(), locked("0" * 64, COMMIT, "tiny.safetensors")),
    ],
)
def test_a_pin_that_is_not_of_what_is_declared(tmp_path, record, pin):
    write(tmp_path, tiny=record)
    pins.write({"tiny": pin}, tmp_path)
    for ask in (zoo.load, lambda name, root: zoo.pin([name], root=root)):
        with pytest.raises(UserError, match=r"pins tiny to .*, data/models\.yml names .*; fewstep pin --again tiny"):
            ask("tiny", root=tmp_path)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"a": 1}', '{"a": {"sha256": {"b": "0"}}}', '{"a": {"hub": "b/c", "sha256": {}}}', "<<<<<<< ours\n{}"],
)
def test_a_file_that_is_no_lock_file(tmp_path, content):
    (tmp_path / "data").mkdir()
    (tmp_path / pins.FILE).write_text(content)
    with pytest.raises(UserError, match=r"models\.lock\.json: .*; restore it with git") as caught:
        pins.read(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="restore it with git"):
        pins.write({}, tmp_path)
    assert (tmp_path / pins.FILE).read_text() == content


def test_what_is_written_keeps_the_rest(tmp_path):
    pins.write({"b": locked("0" * 64)}, tmp_path)
    pins.write({"a": locked("1" * 64, COMMIT, WEIGHTS)}, tmp_path)
    assert list(json.loads((tmp_path / pins.FILE).read_text())) == ["a", "b"]
    with pytest.raises(UserError, match=r"b was pinned to SHA-256 0000.* just now, not to SHA-256 1111"):
        pins.write({"b": locked("1" * 64), "c": locked("1" * 64)}, tmp_path)
    assert set(pins.read(tmp_path)) == {"a", "b"}
    pins.write({"b": locked("1" * 64)}, tmp_path, again=True)
    assert pins.read(tmp_path)["b"] == locked("1" * 64)


def test_the_committed_file_is_as_it_would_be_written(tmp_path):
    pins.write(pins.read(), tmp_path)
    assert (tmp_path / pins.FILE).read_bytes() == (ROOT / pins.FILE).read_bytes()


# --- in the book ---------------------------------------------------------------------------------------------------


def test_the_page_shows_what_each_network_is_pinned_to(tmp_path):
    pytest.importorskip("myst_parser")
    from test_records_ext import CONF, build, table_text

    (tmp_path / "book").mkdir()
    loose, wanted = of_hub(repository="google/a"), of_hub(OTHER, "google/b")
    write(tmp_path, tiny=of_hub(), file=of_file(), loose=loose, wanted=wanted)
    pins.write({"tiny": locked("ab" * 32, COMMIT, WEIGHTS), "file": locked("cd" * 32)}, tmp_path)
    (tmp_path / "book/index.md").write_text("# Page\n\nText.\n")
    (tmp_path / "book/other.md").write_text("---\norphan: true\n---\n# Other\n\nText.\n")
    conf = CONF.format(extensions=str(ROOT / "book/_ext"), root=str(tmp_path))
    (tmp_path / "book/conf.py").write_text(conf.replace('"records"]', '"records", "networks"]'))
    html, _, _ = build(tmp_path, "```{networks}\n```")
    rows = {row[0]: row[2:] for row in table_text(html, "reported")}
    assert rows["tiny"] == ["google/tiny", f"commit {COMMIT[:12]}, SHA-256 {'ab' * 6}"]
    assert rows["file"] == ["tiny.ckpt of nobody", f"SHA-256 {'cd' * 6}"]
    assert rows["loose"] == ["google/a", "pinned at first use"]
    assert rows["wanted"] == ["google/b", f"commit {OTHER[:12]}, SHA-256 pinned at first use"]
