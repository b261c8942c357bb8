#!/usr/bin/env bash
# Makes the folder .gpu/ in the project's root: all that a bare GPU machine with no network needs to
# measure the project, beside the project's own files. Run in the project's root, with a network.
set -euo pipefail

DATA=${DATA:-../shared/data/photos-300}
WEIGHTS=${WEIGHTS:-../shared/weights/mobilenetv2_100_coral_ptq.safetensors}
MOST_MIB=${MOST_MIB:-60}
TO=.gpu

if [ ! -f constraints.txt ] || [ ! -d pipeline ]; then
  echo "run this in the project's root" >&2
  exit 2
fi
PYTHON=${PYTHON:-}
if [ -z "$PYTHON" ]; then
  PYTHON=python3
  [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
for needed in git tar xz unzip; do
  command -v "$needed" > /dev/null || { echo "needs $needed" >&2; exit 2; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$TO/wheels" "$TO/photos"

# As the project's constraints.txt has it; the newest of what it does not name.
pin() {
  local line
  line=$(tr -d '\r' < constraints.txt | grep -i -m 1 "^${1//[-_]/[-_]}==" || true)
  echo "${line:-$1}"
}
tags=(--python-version 3.12 --implementation cp)
for minor in 28 27 17 24 31 34 35; do tags+=(--platform "manylinux_2_${minor}_x86_64"); done
tags+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
download() {
  "$PYTHON" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: \
    "${tags[@]}" -d "$1" "${@:2}" 2> "$work/pip.txt" || { cat "$work/pip.txt" >&2; exit 1; }
}

# What the machine lacks of what the project imports, and what those import: pydantic's parts,
# Ray's jsonschema with its parts, the peers of the benchmark.
names=(annotated-types braceexpand jsonschema jsonschema-specifications platformdirs pycocotools
  pydantic pydantic_core referencing rpds-py tenacity torchcam typing-inspection
  typing_extensions webdataset)
built=(grad-cam ttach)
rm -f "$TO"/wheels/*.whl
pins=()
for name in "${names[@]}"; do pins+=("$(pin "$name")"); done
echo "wheels: ${pins[*]}"
download "$TO/wheels" "${pins[@]}"
for name in "${built[@]}"; do
  # Published as source alone, and pure Python: what is built here runs there.
  "$PYTHON" -m pip wheel -q --disable-pip-version-check --no-deps -w "$work/built" \
    "$(pin "$name")" 2> "$work/pip.txt" || { cat "$work/pip.txt" >&2; exit 1; }
done
for wheel in "$work"/built/*.whl; do
  case $wheel in *-none-any.whl) cp "$wheel" "$TO/wheels/" ;;
    *) echo "not pure Python: $wheel" >&2; exit 1 ;; esac
done

# Ray without what no worker here needs, its programs stripped, as one solid archive: they share
# most of their code, so that one compresses to half of what its wheel would.
ray=$(pin ray)
if [ "$(cat "$TO/ray.version" 2> /dev/null || true)" = "$ray" ] && [ -f "$TO/ray.tar.xz" ]; then
  echo "$ray: as it was"
else
  echo "$ray: trimming and compressing takes two minutes"
  download "$work/ray" "$ray"
  mkdir "$work/trimmed"
  unzip -q "$work"/ray/ray-*.whl -d "$work/trimmed"
  for part in jars rllib serve llm tune cpp dashboard/client; do
    rm -rf "$work/trimmed/ray/$part"
  done
  if command -v strip > /dev/null; then
    for program in _raylet.so core/libjemalloc.so core/src/ray/gcs/gcs_server \
      core/src/ray/raylet/raylet; do
      [ ! -f "$work/trimmed/ray/$program" ] || strip --strip-unneeded "$work/trimmed/ray/$program"
    done
  fi
  tar -C "$work/trimmed" --owner=0 --group=0 -cf - . |
    xz -9e -T1 --x86 --lzma2=preset=9,dict=128MiB > "$TO/ray.tar.xz.part"
  mv "$TO/ray.tar.xz.part" "$TO/ray.tar.xz"
  echo "$ray" > "$TO/ray.version"
fi
bytes_of() { find "$@" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }'; }
if [ "$(bytes_of "$TO/ray.tar.xz")" -gt $((26 << 20)) ]; then
  echo "ray.tar.xz is larger than 26 MiB" >&2
  exit 1
fi

# Real weights, for the comparison of boxes; the timings are with random ones.
xz -9e -T1 -c "$WEIGHTS" > "$TO/mobilenetv2.safetensors.xz"
cp bench/gpu/on_device.sh "$TO/"
awk -F, '{ print $1 "," $2 }' "$DATA/images.csv" > "$TO/labels.csv"

# As many photographs as fit, those left out evenly spread.
rm -f "$TO"/photos/*
# A tracked file that was removed counts for nothing.
sizes() { git ls-files -co --exclude-standard -z | xargs -0 -r stat -c %s -- 2> /dev/null || true; }
tree=$(sizes | awk '{ sum += $1 } END { print sum + 0 }')
own=$(bytes_of "$TO" ! -path "$TO/out/*")
"$PYTHON" - "$DATA/images" "$TO/photos" $(((MOST_MIB << 20) - tree - own - 65536)) << 'P'
import shutil
import sys
from pathlib import Path

source, to, room = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
paths = sorted(path for path in source.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
chosen = paths
for out in range(len(paths)):
    dropped = {round((k + 0.5) * len(paths) / out) for k in range(out)} if out else set()
    chosen = [path for index, path in enumerate(paths) if index not in dropped]
    if sum(path.stat().st_size for path in chosen) <= room:
        break
else:
    sys.exit("no room for photographs")
for path in chosen:
    shutil.copyfile(path, to / path.name)
print(f"{len(chosen)} of {len(paths)} photographs")
P

report() { printf '%-28s%9.2f MiB\n' "$1" "$(awk "BEGIN { print $2 / 1048576 }")"; }
report "the project's tree" "$tree"
report "$TO/wheels" "$(bytes_of "$TO/wheels")"
report "$TO/ray.tar.xz" "$(bytes_of "$TO/ray.tar.xz")"
report "$TO/mobilenetv2" "$(bytes_of "$TO/mobilenetv2.safetensors.xz")"
report "$TO/photos" "$(bytes_of "$TO/photos")"
all=$((tree + $(bytes_of "$TO" ! -path "$TO/out/*")))
report "all" "$all"
if [ "$all" -gt $((MOST_MIB << 20)) ]; then
  echo "more than $MOST_MIB MiB: set MOST_MIB, or remove untracked files" >&2
  exit 1
fi
git check-ignore -q "$TO/photos" || { echo "$TO is not ignored" >&2; exit 1; }
