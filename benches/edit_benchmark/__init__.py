"""The benchmark of edits with exact ground truth. Uses the scenes of models/train."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "models/train"))


class Failed(Exception):
    """Something that the one who started the benchmark can put right: what, and how."""
