"""Weights that are fetched: checked, resumed, and never used when they are not what the manifest says."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import servers
import torch

from fewstep import models, provenance
from fewstep.errors import UserError
from fewstep.models import downloads

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes, several pieces
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = 8 * downloads.CHUNK


class Handler(servers.Handler):
    """Serves ``server.files``; each request takes the next of ``server.stops``, where its answer breaks off."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if server.ranges and (asked := self.headers.get("Range")):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = server.stops.pop(0) if server.stops else None
        self.wfile.write(content[start:stop])
        self.server.go_on.wait(60)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    go_on = threading.Event()
    go_on.set()
    files = {"/net.safetensors": CONTENT}
    with servers.serving(Handler, go_on=go_on, files=files, redirects={}, ranges=True, stops=[], asked=[]) as found:
        found.url += "/net.safetensors"
        yield found


def fetch(server, cache, digest=DIGEST, size=None):
    return downloads.fetch(server.url, digest, "net.safetensors", size, cache)


def left(cache):
    """The files in the cache, but for the lock, which is empty."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def partial(cache, content):
    cache.mkdir(exist_ok=True)
    path = cache / f"{DIGEST[:12]}-net.safetensors.part"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_file_is_fetched_once(server, tmp_path, size):
    path = fetch(server, tmp_path, size=size)
    assert path.read_bytes() == CONTENT and left(tmp_path) == [path.name]
    assert fetch(server, tmp_path, size=size) == path and server.asked == [None]


def test_a_connection_that_breaks_off_is_taken_up_where_it_broke(server, tmp_path):
    server.stops = [HALF, HALF + downloads.CHUNK]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={HALF}-", f"bytes={HALF + downloads.CHUNK}-"]


def code_that_fetches(server):
    return "import sys; from pathlib import Path; from fewstep.models import downloads as d; " + (
        f"d.fetch({server.url!r}, {DIGEST!r}, 'net.safetensors', cache=Path(sys.argv[1]))"
    )


def test_what_a_killed_run_left_is_taken_up(server, tmp_path):
    server.stops = [HALF]
    server.go_on.clear()
    process = subprocess.Popen([sys.executable, "-c", code_that_fetches(server), tmp_path])
    part = tmp_path / f"{DIGEST[:12]}-net.safetensors.part"
    while not part.exists() or part.stat().st_size < HALF:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    server.go_on.set()
    path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT and server.asked == [None, f"bytes={HALF}-"] and left(tmp_path) == [path.name]


def test_a_run_killed_just_before_the_renaming_asks_for_nothing(server, tmp_path):
    partial(tmp_path, CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT and server.asked == []


def test_a_download_that_stands_still_keeps_what_it_has(server, tmp_path):
    server.stops = [HALF, HALF]
    with pytest.raises(UserError, match=rf"breaks off at byte {HALF}; the same command goes on from there"):
        fetch(server, tmp_path)
    assert left(tmp_path) == [f"{DIGEST[:12]}-net.safetensors.part"]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={HALF}-", f"bytes={HALF}-"]


def test_a_server_without_ranges_is_asked_for_all_of_it(server, tmp_path):
    server.ranges, server.stops = False, [HALF]
    path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT and server.asked == [None, f"bytes={HALF}-"] and left(tmp_path) == [path.name]


def test_a_partial_file_longer_than_the_file_is_dropped(server, tmp_path):
    partial(tmp_path, CONTENT + b"x")
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT) + 1}-", None]


@pytest.mark.parametrize("wrong", ["other", "truncated", "longer", "empty"])
@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("resumed", [False, True])
def test_another_content_is_never_used(server, tmp_path, wrong, size, resumed):
    contents = {"other": CONTENT[:-1] + b"x", "truncated": CONTENT[:-1], "longer": CONTENT * 2, "empty": b""}
    server.files["/net.safetensors"] = contents[wrong]
    if resumed:
        partial(tmp_path, CONTENT[:1000])
    with pytest.raises(UserError, match="does not have the SHA-256 that its manifest states") as caught:
        fetch(server, tmp_path, size=size)
    assert left(tmp_path) == [] and "\n" not in str(caught.value)
    assert ("instead of" in str(caught.value)) == (size is not None and wrong != "other")
    server.files["/net.safetensors"] = CONTENT
    assert fetch(server, tmp_path, size=size).read_bytes() == CONTENT


def test_an_endless_answer_is_cut_at_the_length_that_the_manifest_states(server, tmp_path):
    server.files["/net.safetensors"] = bytes(40 * len(CONTENT))
    with pytest.raises(UserError, match=r"SHA-256 .*, (\d+) bytes instead of 1024000") as caught:
        fetch(server, tmp_path, size=len(CONTENT))
    assert int(re.search(r"(\d+) bytes instead", str(caught.value))[1]) <= len(CONTENT) + downloads.CHUNK


def test_a_damaged_file_in_the_cache_is_fetched_anew(server, tmp_path):
    path = fetch(server, tmp_path)
    path.write_bytes(CONTENT[:HALF])
    assert fetch(server, tmp_path).read_bytes() == CONTENT and len(server.asked) == 2


def test_a_file_that_is_not_there(server, tmp_path):
    server.url += "x"
    with pytest.raises(UserError, match=r"cannot fetch http://127\.0\.0\.1:\d+/net\.safetensorsx: the server says 404"):
        fetch(server, tmp_path)
    assert left(tmp_path) == []


def test_a_server_that_is_not_there(server, tmp_path):
    url = server.url.replace(str(server.server_port), "9")  # the port of the discard service
    with pytest.raises(UserError, match="the server cannot be reached"):
        downloads.fetch(url, DIGEST, "net.safetensors", cache=tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://example.org/net.safetensors",
        "http://example.org/net.safetensors",
        "http://127.0.0.1.example.org/net.safetensors",
        "http://localhost@example.org/net.safetensors",
        "https:///net.safetensors",
        "https://[::1/net.safetensors",
        "net.safetensors",
        "",
        3,
        None,
    ],
)
def test_only_https_is_fetched(tmp_path, url):
    with pytest.raises(UserError, match=r"is not (fetched|a URL); .*https://"):
        downloads.fetch(url, DIGEST, "net.safetensors", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("to", ["http://example.org/net.safetensors", "file:///etc/hostname", "/"])
def test_a_redirect_leads_to_https_or_nowhere(server, tmp_path, to):
    server.redirects = {"/net.safetensors": to, "/": "/net.safetensors"}  # the last one goes round in a circle
    with pytest.raises(UserError, match=r"cannot fetch .*; the manifest needs another URL"):
        fetch(server, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["../net.safetensors", "a/b", "/net", ""])
def test_a_name_stays_inside_the_cache(server, tmp_path, name):
    with pytest.raises(UserError, match="without a folder"):
        downloads.fetch(server.url, DIGEST, name, cache=tmp_path / "cache")
    with pytest.raises(UserError, match="is not a SHA-256"):
        downloads.fetch(server.url, f"../../{DIGEST}"[:64], "net.safetensors", cache=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == [] and server.asked == []


def test_a_full_disk_is_found_before_it_is_full(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs 1024000 bytes and .* has 1000 free"):
        fetch(server, tmp_path)
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_a_users_mistake(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*net\.safetensors"):
        fetch(server, tmp_path / "file")


def test_several_at_once_fetch_it_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = {job.result() for job in [pool.submit(fetch, server, tmp_path) for _ in range(4)]}
    assert len(paths) == 1 and paths.pop().read_bytes() == CONTENT and server.asked == [None]


def test_progress_is_shown_on_a_terminal_only(server, tmp_path):
    """Nothing on a pipe; with a terminal's end as standard error, a bar that reaches 100 %."""
    code = code_that_fetches(server)
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    subprocess.run([sys.executable, "-c", code, tmp_path / "b"], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "100%" in shown and "net.safetensors" in shown


# --- through the manifest ------------------------------------------------------------------------------------------


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A network that the manifest knows, and only the server has."""
    monkeypatch.setattr(downloads, "CACHE", tmp_path / "cache")
    folder = tmp_path / "checkpoints"
    net = models.FeatureNet((1, 8, 8), 10, width=4, features=8)
    models.save("net", net, "features", "test", folder)
    models.save("cut", net, "features", "test", folder, shard_bytes=6000)
    entries = models.manifest(folder)
    for name, entry in entries.items():
        for file in entry.get("shards", [name]):
            server.files[f"/{file}"] = (folder / file).read_bytes()
            (folder / file).unlink()
    entries["net.safetensors"] |= {"url": server.url, "bytes": len(server.files["/net.safetensors"])}
    entries["cut.safetensors"] |= {"url": server.url.removesuffix("net.safetensors")}
    assert len(entries["cut.safetensors"]["shards"]) > 1
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder, net


@pytest.mark.parametrize("name", ["net", "cut"])
def test_a_network_comes_from_where_the_manifest_says(published, server, name):
    folder, net = published
    for _ in range(2):
        loaded = models.load(name, folder)
        assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), net.parameters(), strict=True))
    assert len(server.asked) == (1 if name == "net" else len(models.manifest(folder)["cut.safetensors"]["shards"]))
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_a_network_is_not_built_from_another_file(published, server):
    folder, _ = published
    blob = server.files["/net.safetensors"]
    server.files["/net.safetensors"] = blob[:-1] + bytes([blob[-1] ^ 1])
    with pytest.raises(UserError, match=r"net\.safetensors does not have the SHA-256"):
        models.load("net", folder)
    assert left(downloads.CACHE) == []


def test_a_file_in_the_folder_is_used_without_asking(published, server):
    folder, _ = published
    (folder / "net.safetensors").write_bytes(server.files["/net.safetensors"])
    models.load("net", folder)
    assert server.asked == []


def test_a_record_does_not_depend_on_how_weights_came():
    """The key of a record holds their SHA-256; it has no part of the code that fetches them."""
    closure = provenance._closure({"fewstep.models"}, provenance.ROOT)
    assert "fewstep.models.checkpoints" in closure and "fewstep.models.downloads" not in closure
