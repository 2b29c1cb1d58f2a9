# shellcheck shell=bash disable=SC2034 # the scripts that source this use the variables
# One command line for all scripts here, so that watch.sh can hand its own on. Sourced, not run.
set -euo pipefail

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  cat <<'TEXT'
options:
  --zone ZONE      where the slice is, or is to be                            [$ZONE]
  --type TYPE      accelerator: v5litepod-16, v5p-8, v6e-16, ...              [v5litepod-16]
  --slices N       so many slices of that type, joined by the network         [1]
  --runtime NAME   TPU VM image                                               [that of the type]
  --nfs HOST:PATH  shared disk, mounted as /mnt/jdistill on every worker; a slice of several hosts needs one
  --spot           cheaper, and taken away at any time
  --dry-run        print the commands instead of running them
  -- WORDS         what to train: CONFIG key=value ..., as after `jdistill train`
TEXT
}

fail() {
  echo "error: $(basename "$0"): $1" >&2
  exit 2
}

run() {
  if [[ -n $DRY_RUN ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

runtime_of() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

NAME="" ZONE=${ZONE:-} TYPE=v5litepod-16 SLICES=1 RUNTIME="" NFS="" SPOT="" DRY_RUN="" TRAIN=()
while (($#)); do
  case $1 in
    --zone | --type | --slices | --runtime | --nfs)
      (($# > 1)) || fail "$1 needs a value"
      declare "$(tr '[:lower:]' '[:upper:]' <<<"${1#--}")=$2"
      shift
      ;;
    --spot) SPOT=yes ;;
    --dry-run) DRY_RUN=yes ;;
    -h | --help) usage && exit ;;
    --) shift && TRAIN=("$@") && break ;;
    -*) fail "unknown option $1; --help lists them" ;;
    *) [[ -z $NAME ]] || fail "two names, $NAME and $1; what to train stands behind --" && NAME=$1 ;;
  esac
  shift
done
[[ -n $NAME ]] || { usage >&2 && exit 2; }
[[ -n $ZONE ]] || fail "no zone; give --zone, such as us-central1-a"
[[ $SLICES =~ ^[1-9][0-9]*$ ]] || fail "--slices: is '$SLICES', expected a number from 1 on"
QUEUED=(gcloud compute tpus queued-resources)
WHERE=("$NAME" "--zone=$ZONE")
EVERY=("--zone=$ZONE" --node=all --worker=all)
