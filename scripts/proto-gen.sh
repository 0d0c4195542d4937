#!/usr/bin/env bash
# Writes the protobuf stubs of proto/*.proto to proto/gen/orchestrator_proto. `pip install` does the same by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" setup.py proto_gen
