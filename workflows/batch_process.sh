#!/usr/bin/env bash
# Train, measure and answer with one config after the other:
#   workflows/batch_process.sh configs/run_cpu.yaml configs/run_bnb.yaml
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$#" -eq 0 ]; then
    echo "usage: workflows/batch_process.sh CONFIG..." >&2
    exit 2
fi
python="${PYTHON:-python3}"
for config in "$@"; do
    "$python" launch.py process --config "$config"
    "$python" launch.py train --config "$config"
    "$python" launch.py eval --config "$config" --split val
done
