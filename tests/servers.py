"""A server on this machine, for the tests of what is fetched."""

from __future__ import annotations

import contextlib
import http.server
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """One request a connection."""

    protocol_version = "HTTP/1.1"

    def end_headers(self):
        # A client that is not told keeps the connection, and may send its next request into one that is just closing.
        self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(handler, **attributes):
    """A server that answers in threads until the end of the block; handlers see the attributes as ``self.server.…``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda request, address: None  # a client that hangs up is part of the tests
    server.url = f"http://127.0.0.1:{server.server_port}"
    vars(server).update(attributes)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
