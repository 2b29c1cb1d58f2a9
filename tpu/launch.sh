#!/usr/bin/env bash
# Copy the committed state of this checkout to every worker and start training there, in the background.
#   tpu/launch.sh NAME --zone ZONE [--nfs HOST:PATH] [--dry-run] -- CONFIG [key=value ...]

source "$(dirname "$0")/options.sh"

((${#TRAIN[@]})) || fail "nothing to train; pass a config after --, such as -- configs/debug.yaml"
cd "$(dirname "$0")/.." || exit
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
run git archive --format=tar.gz --output="$archive" HEAD
run "${QUEUED[@]}" scp "$archive" "$NAME:jdistill.tar.gz" "${EVERY[@]}"

busy='if kill -0 "$(cat jdistill/pid 2>&1)" 2>/dev/null; then echo "error: still training here" >&2; exit 2; fi'
unpack="rm -rf jdistill && mkdir jdistill && tar -xzf jdistill.tar.gz -C jdistill"
start="bash jdistill/tpu/worker.sh $(printf '%q ' "${NFS:--}" "${TRAIN[@]}")"
run "${QUEUED[@]}" ssh "${WHERE[@]}" --node=all --worker=all --command="$busy; $unpack && $start"
