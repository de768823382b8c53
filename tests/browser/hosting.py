"""A folder of pages on an address of this machine."""

from __future__ import annotations

import functools
import gzip
import http.server
from pathlib import Path

import servers


class Files(http.server.SimpleHTTPRequestHandler, servers.Handler):
    """The files of a folder; text is compressed, as every host of static pages does."""

    def __init__(self, *arguments):
        super().__init__(*arguments, directory=arguments[2].site)

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if path.suffix not in (".html", ".js", ".css", ".svg", ".json") or not path.is_file():
            return super().do_GET()
        body = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@functools.cache
def compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), compresslevel=6)
