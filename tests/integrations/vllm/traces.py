"""A collector of OpenTelemetry's spans, for servers that export them over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_WAIT_SECONDS = 30.0


class Collector:
    """What was exported so far.

    Attributes:
        endpoint: what `--otlp-traces-endpoint` takes; the protocol is "http/protobuf".
    """

    def __init__(self, endpoint: str, spans: list[Any]) -> None:
        self.endpoint = endpoint
        self._spans = spans

    def of_trace(self, trace_id: str, *, names: set[str]) -> dict[str, Any]:
        """Returns a trace's spans by name, once those named have come."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            found = {s.name: s for s in list(self._spans) if s.trace_id.hex() == trace_id}
            if names <= set(found) or time.monotonic() > deadline:
                return found
            time.sleep(0.1)


@contextmanager
def collector() -> Iterator[Collector]:
    """Runs one in a thread."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )

    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Collector(f"http://127.0.0.1:{server.server_port}/v1/traces", spans)
        server.shutdown()
