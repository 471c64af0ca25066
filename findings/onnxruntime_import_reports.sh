#!/usr/bin/env bash
# onnxruntime 1.32.0: `import onnxruntime` on Linux makes an id of the machine's user and a store of events to be sent, in the home folder.
#
# Seen: in an empty home folder the import alone leaves `.cache/Microsoft/DeveloperTools/.onnxruntime/deviceid`, an id that stays, and
# `onnxruntime.db`, a store of events with one in it. No session is made. `disable_telemetry_events()` after the import comes too late for
# both. With ORT_DISABLE_TELEMETRY=1 in the environment before the import nothing is made. This script uses temporary home folders.
# Why it matters: photos of patients or of a plant are often segmented on machines that may tell nobody anything, or have no home folder.
# What to do: set ORT_DISABLE_TELEMETRY=1 before the first import, in the environment or by os.environ.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(onnxruntime==1.32.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
import: .cache/Microsoft/DeveloperTools/.onnxruntime/deviceid, .cache/Microsoft/DeveloperTools/.onnxruntime/onnxruntime.db
import, then disable_telemetry_events(): .cache/Microsoft/DeveloperTools/.onnxruntime/deviceid, .cache/Microsoft/DeveloperTools/.onnxruntime/onnxruntime.db
import, ORT_DISABLE_TELEMETRY=1: no file
import, then disable_telemetry_events(), ORT_DISABLE_TELEMETRY=1: no file
STATED

cd "$folder"
unset ORT_DISABLE_TELEMETRY XDG_CACHE_HOME
"$python" -W ignore - >"$folder/seen" <<'PYTHON'
import os
import subprocess
import sys
from pathlib import Path

WORK = {
    "import": "import onnxruntime",
    "import, then disable_telemetry_events()": "import onnxruntime; onnxruntime.disable_telemetry_events()",
}
PAUSE = "; import time; time.sleep(2)"

for off in (False, True):
    for name, work in WORK.items():
        home = Path(f"home-{off}-{len(name)}").absolute()
        home.mkdir()
        environment = os.environ | {"HOME": str(home)} | ({"ORT_DISABLE_TELEMETRY": "1"} if off else {})
        command = [sys.executable, "-c", work + PAUSE]
        subprocess.run(command, env=environment, check=True)
        made = sorted(str(file.relative_to(home)) for file in home.rglob("*") if file.is_file())
        print(f"{name}{', ORT_DISABLE_TELEMETRY=1' if off else ''}: {', '.join(made) or 'no file'}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"
