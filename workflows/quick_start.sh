#!/usr/bin/env bash
# From the bundled sample to a tuned model you can chat with, in one go.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
"$python" launch.py check
exec "$python" launch.py demo "$@"
