#!/usr/bin/env bash
# Fetches what `userdp bench case=gpu` needs on a machine with a card and Python 3.12 that has torch and transformers
# (wheels.txt) and no network: wheels of the versions in constraints.txt, and userdp's own.
#   analysis/benchmark/wheels.sh FOLDER [torchao] [bitsandbytes]
set -euo pipefail
to=${1:?a folder for the wheels}; shift
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}

listed() {  # names with this mark; without a mark, the others
  awk -v mark="$1" '!/^#/ && NF && $2 == mark { print $1 }' "$here/wheels.txt"
}
pinned() {  # name==version of each name that is read
  while read -r name; do
    grep -ixE "${name}==[^ ]+" "$root/constraints.txt" && continue
    echo "wheels.sh: constraints.txt has no $name" >&2
    return 1
  done
}

for name in "$@"; do
  listed asked | grep -qx "$name" || { echo "wheels.sh: $name: choose among $(listed asked | xargs)" >&2; exit 2; }
done
wheels=$({ listed ""; printf '%s\n' "$@"; } | sed '/^$/d' | pinned)
sources=$(listed source | pinned)
platforms=()
for glibc in 34 31 28 27 24 17 12 5; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
for name in 2014 2010 1; do platforms+=(--platform "manylinux${name}_x86_64"); done

mkdir -p "$to"
# shellcheck disable=SC2086 # one word for each package
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]}" -d "$to" $wheels
# shellcheck disable=SC2086
"$python" -m pip wheel --quiet --no-deps -w "$to" $sources "$root"
du -sh "$to"
