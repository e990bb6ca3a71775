"""The example of docs/scale.md runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent


def test_a_shard_is_embedded_and_the_second_time_read(tmp_path):
    code = re.search(r"```python\n(# embed_shard\.py.*?)```", (ROOT / "docs/scale.md").read_text("utf-8"), re.S)[1]
    (tmp_path / "embed_shard.py").write_text(code, encoding="utf-8")
    shard = tmp_path / "DATA" / "shards" / "0007" / "below"
    shard.mkdir(parents=True)
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(shard / f"{i}.jpg")
    (shard / "bad.jpg").write_bytes(b"no image")
    printed = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "embed_shard.py", "0007"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0].startswith("3 rows of 1280, 1 unreadable images, digest ")
    assert printed[0] == printed[1]
    assert [*(tmp_path / "DATA" / "shards" / ".cache").glob("0007+efficientnet_lite0-224px-*.f16")]
