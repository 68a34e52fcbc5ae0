"""Run the README's commands as printed, in their order, on a fresh clone of what is committed.

Blocks that the tests leave out (they install, which takes minutes) are run here. `photo.png` is a
small picture that this script writes: the README's reader has one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIDE = 128
# Of what the person who types would not see.
CLEAN = ("PYTHONPATH", "VIRTUAL_ENV", "RAY_ADDRESS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")


def main() -> int:
    """Clone, write photo.png, run one shell with all blocks; return its exit code."""
    with tempfile.TemporaryDirectory(prefix="gigarestore-clone-") as folder:
        clone = Path(folder) / "gigarestore"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (clone / "photo.png").write_bytes(picture(SIDE))
        blocks = commands(clone / "README.md")
        script = "\n".join(["set -ex", *blocks])
        environment = {name: value for name, value in os.environ.items() if name not in CLEAN}
        done = subprocess.run(["bash", "-c", script], cwd=clone, env=environment, check=False)
        print(f"{len(blocks)} blocks: exit code {done.returncode}", file=sys.stderr)
        return done.returncode


def commands(page: Path) -> list[str]:
    """Return the text of a page's blocks of shell commands."""
    blocks: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside and line.startswith("```bash")
            if inside:
                blocks.append("")
        elif inside:
            blocks[-1] += line + "\n"
    return blocks


def picture(side: int) -> bytes:
    """Return a PNG of a disk over a shaded ground, without any library."""
    rows = bytearray()
    for y in range(side):
        rows.append(0)
        for x in range(side):
            inside = (x - side // 2) ** 2 + (y - side // 2) ** 2 < (side // 3) ** 2
            rows += bytes((200, 90, 60) if inside else (x * 150 // side + 40, y + 40, 120))
    header = side.to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return len(data).to_bytes(4, "big") + kind + data + check.to_bytes(4, "big")


if __name__ == "__main__":
    sys.exit(main())
