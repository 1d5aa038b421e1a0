"""What training imports: most of the time to a small model's first step is that."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.paths import ROOT


def test_training_imports_nothing_for_metrics_of_sound_and_text() -> None:
    program = "import json, sys; import recipes.training.fit; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "lightning.pytorch" in loaded and not {"scipy", "transformers", "wandb"} & set(loaded)
