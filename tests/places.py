"""Where tests find things: the repository's root, its golden vectors, and real files that may lie
beside a checkout.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
