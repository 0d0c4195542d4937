#!/bin/sh
# Makes the bucket once MinIO answers; running it again changes nothing.
set -eu
tries=0
until mc alias set store http://minio:9000 "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD" >/dev/null 2>&1; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || { echo "MinIO did not answer within a minute; see: docker compose logs minio" >&2; exit 1; }
  sleep 1
done
mc mb --ignore-existing "store/$MINIO_BUCKET"
