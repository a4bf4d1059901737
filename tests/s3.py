"""A real server that speaks S3's protocol, if MOTO_SERVER names one; `make test` does (CONTRIBUTING.md)."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request

import pytest

from tests.ports import free_port


@pytest.fixture(scope="module", name="s3")
def serve_s3():
    """Gives the query of URIs into a bucket named `bucket`."""
    command = os.environ.get("MOTO_SERVER")
    if command is None:
        pytest.skip("MOTO_SERVER names no S3 server")
    address = f"127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        host, port = address.split(":")
        server = subprocess.Popen(
            [command, "-H", host, "-p", port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _make_bucket(f"http://{address}/bucket", server)
            yield f"?endpoint_override={address}&scheme=http"
        finally:
            server.kill()
            server.wait()


def _make_bucket(url, server):
    deadline = time.monotonic() + 60
    while True:
        try:
            return urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
        except OSError:
            assert server.poll() is None, "moto_server ended"
            assert time.monotonic() < deadline, "moto_server does not answer"
            time.sleep(0.1)
