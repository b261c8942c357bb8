#!/usr/bin/env bash
# Measures the project on a bare GPU machine with no network; run in the project's root:
#
#   OUT=some/folder bash .gpu/on_device.sh
#
# DRY=1 goes through every step on a CPU with tiny counts. BUDGET is what all of it may take, in
# seconds. Each step has a limit of its own and its log in $OUT/log.txt; one that fails or is cut
# off leaves what it had, and the next is begun.
set -euo pipefail

ROOT=$PWD
KIT=$ROOT/.gpu
DRY=${DRY:-0}
BUDGET=${BUDGET:-445}
PYTHON=${PYTHON:-python3}
[ "$DRY" = 0 ] || BUDGET=${DRY_BUDGET:-3000}
export OUT=${OUT:-$KIT/out}
[ -n "${KIT_WORK:-}" ] || { KIT_WORK=$(mktemp -d) && MADE=$KIT_WORK; }
export KIT_WORK
SITE=${SITE:-$KIT_WORK/site}
LOG=$OUT/log.txt

export DRY PYTHONUNBUFFERED=1 COLUMNS=140 TMPDIR=$KIT_WORK/tmp HF_HUB_OFFLINE=1
export PYTHONPATH=$SITE:$ROOT/pipeline:$ROOT
# The memory that such a machine shows may grow with its use, which Ray would take for a lack.
export RAY_memory_monitor_refresh_ms=0 RAY_USAGE_STATS_ENABLED=0 RAY_DISABLE_IMPORT_WARNING=1

# Name, most seconds, seconds that are kept free for it by the steps before.
STEPS=(
  "install 60 15"
  "environment 75 30"
  "sanity 70 35"
  "ways 115 45"
  "resnet50 100 30"
  "swin 75 30"
  "mobilenetv2 75 30"
  "precise 75 30"
  "labels 70 30"
  "ray 380 60"
  "sizing 70 20"
  "profile 60 20"
  "memory 50 18"
  "under_load 60 20"
  "forward 90 20"
  "jpeg 40 10"
)

install() {
  if "$PYTHON" -c 'import pydantic, pytorch_grad_cam, ray, torchcam, webdataset' 2> /dev/null; then
    echo "as the interpreter has it: nothing to install"
  else
    # Each wheel is a zip file that can be unpacked as well where pip refuses one.
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
      --target "$SITE" "$KIT"/wheels/*.whl ||
      for wheel in "$KIT"/wheels/*.whl; do
        "$PYTHON" -m zipfile -e "$wheel" "$SITE" || echo "not installed: $wheel"
      done
    tar -xJf "$KIT/ray.tar.xz" -C "$SITE" ||
      "$PYTHON" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' \
        "$KIT/ray.tar.xz" "$SITE" || echo "no ray"
  fi
  "$PYTHON" -c 'import lzma, shutil, sys
shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' \
    "$KIT/mobilenetv2.safetensors.xz" "$KIT_WORK/mobilenetv2.safetensors" || echo "no weights"
  "$PYTHON" -m bench.gpu put_photographs "$KIT"
}

environment() {
  if [ "$DRY" = 0 ]; then nvidia-smi || true; nvidia-smi -q -d CLOCK,POWER || true; fi
  uname -a; nproc; free -m || true; df -h "$KIT_WORK" /dev/shm || true
  lscpu | grep -i -E 'model name|mhz|l3|numa' || true
  "$PYTHON" --version
  # Beside each other: the first run compiles for long, on one CPU.
  "$PYTHON" -m bench.gpu first &
  local first=$! code=0
  "$PYTHON" -m bench.gpu environment || code=$?
  wait "$first" && return "$code"
}

# Copies of 4 x the photographs (2 x in a dry run), rounds, images of a peer.
if [ "$DRY" = 0 ]; then COPIES=4 ROUNDS=2 PEERS=${PEERS:-560} RAY=64 PROFILE=5 MEMORY=2 FINE=2 WAYS=16 SIZING=12
else COPIES=1 ROUNDS=1 PEERS=10 RAY=12 PROFILE=2 MEMORY=1 FINE=1 WAYS=8 SIZING=4; fi

throughput() { # model, images of a peer
  "$PYTHON" -m bench throughput "$KIT_WORK/photos-repeated" --model "{\"name\": \"$1\"}" \
    --peer-images "$2" --copies $COPIES --repeats $ROUNDS --seconds $((STEP_SECONDS - 12)) \
    --to "$KIT_WORK/results/throughput-$1.json"
}

command_of() {
  case $1 in
    install | environment) "$1" ;;
    resnet50) throughput resnet50 $PEERS ;;
    swin) throughput swin_tiny_patch4_window7_224 0 ;;
    mobilenetv2) throughput mobilenetv2_100 0 ;;
    precise) "$PYTHON" -m bench.gpu precise $FINE $ROUNDS ;;
    ray) "$PYTHON" -m bench.gpu actors $RAY ;;
    ways) "$PYTHON" -m bench.gpu ways $WAYS ;;
    sizing) "$PYTHON" -m bench.gpu sizing $SIZING ;;
    profile) "$PYTHON" -m bench.gpu profile $PROFILE ;;
    memory) "$PYTHON" -m bench.gpu memory $MEMORY ;;
    sanity | labels | under_load | forward | jpeg) "$PYTHON" -m bench.gpu "$1" ;;
  esac
}

# One step is a call of this script by itself, so that `timeout` ends all that it started.
if [ "${1:-}" = step ]; then
  command_of "$2"
  exit
fi

mkdir -p "$OUT"
mkdir -p "$KIT_WORK/tmp" "$SITE"
: > "$LOG"

watcher=
if [ "$DRY" = 0 ] && command -v nvidia-smi > /dev/null; then
  nvidia-smi --query-gpu=timestamp,utilization.gpu,utilization.memory,memory.used,power.draw,clocks.sm,temperature.gpu \
    --format=csv,noheader,nounits -lms 500 > "$OUT/gpu.csv" 2>&1 &
  watcher=$!
fi
finish() {
  [ -z "$watcher" ] || kill "$watcher" 2> /dev/null || true
  [ -z "${MADE:-}" ] || rm -rf "$MADE"
}
trap finish EXIT

for number in "${!STEPS[@]}"; do
  read -r name most _ <<< "${STEPS[$number]}"
  case " install ${ONLY:-$name} " in *" $name "*) ;; *) continue ;; esac
  later=0
  for after in "${STEPS[@]:$((number + 1))}"; do
    read -r next _ keep <<< "$after"
    case " ${ONLY:-$next} " in *" $next "*) later=$((later + keep)) ;; esac
  done
  limit=$((BUDGET - SECONDS - later))
  [ "$limit" -le "$most" ] || limit=$most
  [ "$DRY" = 0 ] || limit=900
  if [ "$limit" -lt 8 ]; then
    echo "$name: no time" | tee -a "$KIT_WORK/steps.txt" "$LOG"
    continue
  fi
  printf '\n######## %s, %s s, begun at %s s, %s\n' "$name" "$limit" "$SECONDS" "$(date +%T)" >> "$LOG"
  begun=$SECONDS code=0
  STEP_SECONDS=$((limit - 3)) timeout -k 3 "$limit" \
    bash "${BASH_SOURCE[0]}" step "$name" >> "$LOG" 2>&1 || code=$?
  echo "$name: exit code $code, $((SECONDS - begun)) s of $limit (124: cut off)" |
    tee -a "$KIT_WORK/steps.txt" "$LOG"
  "$PYTHON" -m bench.gpu summary "$OUT" >> "$LOG" 2>&1 || true
  # Its shards and files are no longer needed.
  rm -rf "$KIT_WORK"/tmp/* "$KIT_WORK/bench" "$KIT_WORK/out"
done
echo "all: $SECONDS s" | tee -a "$LOG"
cat "$OUT/summary.txt" || true
