"""s3://: images are read with signed requests; no message, log or file shows key or secret."""

import hashlib
import hmac
import re
import urllib.parse

import numpy as np
import pytest

from storage.box import Box
from storage.errors import FormatError
from storage.readers.reader_registry import inspect, open_image
from tests.storage.readers.served_images import PIXELS, RangeHandler, serving, write_images

pytest.importorskip("obstore")
KEY = "AKIAEXAMPLEKEY0001"
SECRET = "example/secret+value/0002"
TOKEN = "example-session-token-0003"


def sha(data):
    return hashlib.sha256(data).hexdigest()


def signature(method, path, query, headers, signed, scope, payload):
    """Return the signature of a request. Source: AWS Signature Version 4, steps 1 to 4."""
    canonical = "\n".join(
        [
            method,
            urllib.parse.quote(urllib.parse.unquote(path), safe="/-_.~"),
            "&".join(sorted(query.split("&"))) if query else "",
            *(f"{name}:{headers[name].strip()}" for name in signed),
            "",
            ";".join(signed),
            payload,
        ]
    )
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, sha(canonical.encode())])
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class S3Handler(RangeHandler):
    """Serve objects of one bucket, path style, to whoever signs with the right secret."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        signed = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/([^,]+), ?SignedHeaders=([^,]+), "
            r"?Signature=(\w+)",
            self.headers.get("Authorization") or "",
        )
        if signed is None or signed[1] != KEY:
            return self.refuse(403, "InvalidAccessKeyId")
        payload = self.headers["x-amz-content-sha256"]
        expected = signature(
            self.command, path, query, self.headers, signed[3].split(";"), signed[2], payload
        )
        if signed[4] != expected:
            return self.refuse(403, "SignatureDoesNotMatch")
        data = self.server.objects.get(urllib.parse.unquote(path))
        if data is None:
            return self.refuse(404, "NoSuchKey")
        return self.send_range(data, ETag=f'"{sha(data)}"')

    do_HEAD = do_GET

    def refuse(self, status, code):
        body = f"<Error><Code>{code}</Code><Message>{KEY}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The running server; its objects are two images."""
    folder = tmp_path_factory.mktemp("bucket")
    write_images(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    objects = {f"/scans/a folder/{file.relative_to(folder)}": file.read_bytes() for file in files}
    with serving(S3Handler) as running:
        running.objects = objects
        yield running


@pytest.fixture
def credentials(bucket, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.server_port}",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)


BASE = "s3://scans/a folder"


@pytest.mark.slow
def test_files_and_zarr_arrays_of_a_bucket_have_their_pixels(credentials):
    for name in ("tiled.tif", "image.png"):
        reader = open_image(f"{BASE}/{name}")
        np.testing.assert_array_equal(
            reader.read(Box(20, 30, 190, 250)), PIXELS[20:190, 30:250].transpose(2, 0, 1)
        )
        reader.close()
    reader = open_image(f"{BASE}/image.zarr")
    np.testing.assert_array_equal(reader.read(Box(60, 60, 70, 200))[0], PIXELS[60:70, 60:200, 0])


def test_a_window_fetches_its_tiles_and_not_the_object(bucket, credentials):
    reader = open_image(f"{BASE}/tiled.tif")
    before = bucket.sent
    reader.read(Box(64, 64, 96, 96))
    assert 0 < bucket.sent - before < 8_000  # one tile; the object has 156 kB
    reader.close()


def test_a_missing_object_is_one_line(credentials):
    with pytest.raises(
        FormatError, match=r"absent\.tif: no such object; check the address"
    ) as error:
        inspect(f"{BASE}/absent.tif")
    assert "\n" not in str(error.value)


def test_credentials_that_are_refused_are_repeated_nowhere(credentials, monkeypatch, cli, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-0004")
    with pytest.raises(FormatError, match="access was denied") as error:
        inspect(f"{BASE}/tiled.tif")
    told = cli("restore", f"{BASE}/tiled.tif", tmp_path / "out", "--scale", 2)
    assert told.code == 2
    for text in (str(error.value), told.out, told.err):
        assert not any(value in text for value in (KEY, "another-secret", TOKEN))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_on_an_object_writes_no_credentials_anywhere(credentials, cli, tmp_path):
    out = tmp_path / "out"
    options = [
        "--scale",
        2,
        "--denoiser",
        "analytic:",
        "--skip-flat",
        255,
        "--levels",
        1,
        "--executor",
        "serial",
    ]
    done = cli("restore", f"{BASE}/tiled.tif", out, *options)
    assert done.code == 0, done.err
    told = cli("info", f"{BASE}/image.png", "--json")
    written = [file.read_bytes() for file in out.rglob("*") if file.is_file()]
    assert len(written) > 3
    for value in (KEY, SECRET, TOKEN):
        assert not any(value.encode() in data for data in written)
        assert not any(value in text for text in (done.out, done.err, told.out, told.err))
