#!/usr/bin/env bash
# onnxruntime 1.32.0, `import onnxruntime` on Linux, with the wheels of PyPI; so do 1.29.0 and onnxruntime-gpu 1.31.1, not 1.28.0.
#
# One would expect: an import that leaves no trace, and a disable_telemetry_events() that keeps telemetry from starting.
# What happens: the import alone, before any session, writes a persistent device id and a store of events below the user's cache directory; where nothing
#   can be sent, the store holds one event, ProcessInfo, with the path of the interpreter, the distribution, the processor and the memory.
#   disable_telemetry_events() exists only after the import, which is too late. ORT_DISABLE_TELEMETRY=1 in the environment before the import prevents both
#   files. So does the variable CI that continuous integration sets: a test there sees nothing. The script empties the environment for that reason.
# Why it matters here: every process of bert-agent that serves, explains or compresses imports onnxruntime; a call after the import cannot switch
#   this off, only the environment of the process before it can.
# Note: where the network is open, running this script may send that event. It opens no model.
# Seen on 2026-11-29 with Python 3.11, Linux x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 1.28.0 1.32.0; do
  python3 -m venv "$version"
  "$version/bin/pip" install --quiet --disable-pip-version-check "onnxruntime==$version" 2>/dev/null
done

# left VERSION CODE [VARIABLE=VALUE]: the files that the code leaves in an empty home directory.
left() {
  local version=$1 code=$2
  shift 2
  rm -rf home
  mkdir home
  env -i PATH="$PATH" HOME="$work/home" "$@" "$version/bin/python" -c "$code" >/dev/null
  (cd home && find . -type f | sort | tr '\n' ' ')
}

# expect none|id DESCRIPTION FILES
expect() {
  echo "$2: ${3:-no file}"
  case "$1" in
    none) [ -z "$3" ] ;;
    id) [[ "$3" == */deviceid* ]] ;;
  esac || { echo "this finding no longer holds: expected $1"; exit 1; }
}

import='import onnxruntime'
seen=$(left 1.28.0 "$import")
expect none "1.28.0, import" "$seen"
seen=$(left 1.32.0 "$import")
expect id "1.32.0, import" "$seen"
seen=$(left 1.32.0 "$import; onnxruntime.disable_telemetry_events()")
expect id "1.32.0, import, then disable_telemetry_events()" "$seen"
seen=$(left 1.32.0 "$import" ORT_DISABLE_TELEMETRY=1)
expect none "1.32.0, ORT_DISABLE_TELEMETRY=1, import" "$seen"
seen=$(left 1.32.0 "$import" CI=true)
expect none "1.32.0, CI=true, import" "$seen"
