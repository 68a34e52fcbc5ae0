"""A picture in several formats, and what local HTTP servers of it share: byte ranges, counted."""

import contextlib
import http.server
import re
import threading

import imagecodecs
import numpy as np
import tifffile
import zarr

PIXELS = np.random.default_rng(0).integers(0, 256, (200, 260, 3), np.uint8)


def write_images(folder):
    """Write the picture as tiled TIFF and PNG, and its first band as a zarr array."""
    tifffile.imwrite(
        folder / "tiled.tif",
        PIXELS,
        tile=(32, 32),
        compression="zlib",
        photometric="rgb",
        metadata=None,
    )
    (folder / "image.png").write_bytes(imagecodecs.png_encode(PIXELS))
    zarr.create_array(folder / "image.zarr", data=PIXELS[:, :, 0], chunks=(64, 64))


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Answer with byte ranges, which the standard library's handler does not, and count bytes."""

    protocol_version = "HTTP/1.1"

    def send_range(self, data, **headers):
        """Send what the request asks for of `data`."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        part = data
        self.send_response(206 if wanted else 200)
        if wanted:
            first = int(wanted[1])
            part = data[first : int(wanted[2]) + 1]
            last = first + len(part) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.server.sent += len(part)
            self.wfile.write(part)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler):
    """Yield a running server; its attribute `sent` counts the bytes that it sent of files."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.sent = 0
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
