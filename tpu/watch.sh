#!/usr/bin/env bash
# Run training to its end on preemptible slices: create, launch, and repeat both whenever a spot slice is preempted.
#   tpu/watch.sh NAME --zone ZONE [the options of create.sh and launch.sh] [--dry-run] -- CONFIG [key=value ...]
# Exits with the exit code of training. Ctrl-C does not stop the run; rerun this script to follow it again.

words=("$@")
source "$(dirname "$0")/options.sh"

((${#TRAIN[@]})) || fail "nothing to train; pass a config after --, such as -- configs/debug.yaml"
here=$(dirname "$0")
state=("${QUEUED[@]}" describe "${WHERE[@]}" '--format=value(state.state)')
# Prints the exit code, or the run's progress; nothing if no run was launched.
progress='cd jdistill 2>/dev/null && if [ -f exit ]; then echo "exit $(cat exit)"; else tail -n 1 log; fi || true'
look=("${QUEUED[@]}" ssh "${WHERE[@]}" --node=0 --worker=0 "--command=$progress")

if [[ -n $DRY_RUN ]]; then
  run "${state[@]}"
  "$here/create.sh" "${words[@]}"
  "$here/launch.sh" "${words[@]}"
  run "${look[@]}"
  "$here/delete.sh" "${words[@]}"
  exit
fi

while true; do
  now=$("${state[@]}" 2>/dev/null || echo NONE)
  case $now in
    NONE) "$here/create.sh" "${words[@]}" ;;
    SUSPENDED | FAILED) "$here/delete.sh" "${words[@]}" ;; # recreated once it is deleted
    ACTIVE)
      now=$("${look[@]}" 2>/dev/null || echo "cannot be reached")
      case $now in
        "") "$here/launch.sh" "${words[@]}" ;;
        "exit "*) echo "$NAME: $now" && exit "${now#exit }" ;;
      esac
      ;;
  esac
  echo "$(date +%T) $NAME: $now"
  sleep "${WATCH_SECONDS:-60}"
done
