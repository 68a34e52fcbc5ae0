"""Images behind URLs: read by ranges, refused in one line, never with credentials in a message."""

import functools
import http.server
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from orchestrator.event_log import EventLog
from orchestrator.events import BatchFailed
from storage.box import Box
from storage.byte_source import ByteSource, located, redact
from storage.errors import FormatError
from storage.readers.reader_registry import inspect, open_image
from storage.readers.staging import stage
from tests.storage.readers.served_images import PIXELS, RangeHandler, serving, write_images

pytest.importorskip("obstore")


class FolderHandler(RangeHandler, http.server.SimpleHTTPRequestHandler):
    """Serve the files of a folder; what is secret only with the right signature."""

    def do_GET(self):
        path = Path(self.translate_path(self.path.partition("?")[0]))
        if "secret" in path.name and "signature=right" not in self.path:
            self.send_error(403)
        elif path.is_file():
            self.send_range(path.read_bytes())
        else:
            self.send_error(404)

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_images(folder)
    tifffile.imwrite(folder / "strips.tif", PIXELS, photometric="rgb", metadata=None)
    (folder / "secret.png").write_bytes(imagecodecs.png_encode(PIXELS))
    with serving(functools.partial(FolderHandler, directory=str(folder))) as running:
        yield running, f"http://127.0.0.1:{running.server_port}"


@pytest.mark.parametrize("name", ["tiled.tif", "strips.tif", "image.png"])
def test_a_file_behind_a_url_has_the_pixels_of_the_file(server, name, tmp_path):
    reader = open_image(f"{server[1]}/{name}")
    np.testing.assert_array_equal(
        reader.read(Box(20, 30, 190, 250)), PIXELS[20:190, 30:250].transpose(2, 0, 1)
    )
    reader.close()
    if not reader.info.lazy:
        stage(f"{server[1]}/{name}", tmp_path / "staged")
        np.testing.assert_array_equal(
            open_image(tmp_path / "staged").read(reader.info.box), PIXELS.transpose(2, 0, 1)
        )


def test_a_zarr_image_behind_a_url_is_read_by_chunks(server):
    reader = open_image(f"{server[1]}/image.zarr")
    np.testing.assert_array_equal(reader.read(Box(60, 60, 70, 200))[0], PIXELS[60:70, 60:200, 0])
    with pytest.raises(FormatError, match=r"give the address of its folder"):
        inspect(f"{server[1]}/image.zarr/zarr.json")


def test_a_window_of_a_tiled_file_fetches_its_tiles_and_not_the_file(server):
    reader = open_image(f"{server[1]}/tiled.tif")
    before = server[0].sent
    reader.read(Box(64, 64, 96, 96))
    assert 0 < server[0].sent - before < 8_000  # one tile; the file has 156 kB
    reader.close()


def test_what_is_missing_or_denied_is_one_line_and_never_pixels(server):
    with pytest.raises(FormatError, match=r"absent\.png: no such object; check the address"):
        inspect(f"{server[1]}/absent.png")
    with pytest.raises(FormatError, match=r"access was denied|cannot be read") as error:
        inspect(f"{server[1]}/secret.png?signature=wrong-7781")
    assert "7781" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_signed_url_is_read_and_its_signature_shown_nowhere(server):
    info = inspect(f"{server[1]}/secret.png?signature=right")
    assert info.shape == (3, 200, 260)
    assert "signature" not in repr(info)


def test_a_url_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(FormatError, match="a user name or password is not accepted") as error:
        inspect("https://me:hunter2@example.org/image.png")
    assert "hunter2" not in str(error.value)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(
        FormatError, match="unknown kind of address ftp://; supported: s3, gs, az, http, https"
    ):
        inspect("ftp://example.org/image.png")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "read https://u:p@host/a.tif?X-Amz-Signature=abc&y=1 failed",
            "read https://...@host/a.tif?... failed",
        ),
        ('{"path": "s3://key:secret@bucket/a?token=1"}', '{"path": "s3://...@bucket/a?..."}'),
        ("is this a question? yes: /a/b.tif", "is this a question? yes: /a/b.tif"),
        ("https://host/a.tif", "https://host/a.tif"),
    ],
)
def test_credentials_are_taken_out_of_text(text, shown):
    assert redact(text) == shown


def test_an_event_that_quotes_a_url_is_kept_without_its_signature(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log(
        BatchFailed(
            worker="w", keys=(), cause="https://host/a.tif?sig=1234: bytes 0 to 9 cannot be read"
        )
    )
    log.close()
    assert "1234" not in (tmp_path / "events.jsonl").read_text()


def test_a_file_url_is_a_path_and_a_url_stays_one(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert located(f"file://{tmp_path}/a") == str(tmp_path / "a")
    assert located("s3://bucket/a") == "s3://bucket/a"
    with ByteSource(f"file://{tmp_path}/a") as source:
        assert source.read(1, 9) == b"bc"
