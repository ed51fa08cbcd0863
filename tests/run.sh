#!/usr/bin/env bash
# The whole suite, on every Python of 3.11, 3.12 and 3.13 that this machine has:
#
#     tests/run.sh [--python 3.12] [--long] [arguments for pytest ...]
#
# The tests marked "proof" (races, faults, models, fuzzing, further kinds of servers, the benchmarks) say little about a
# Python and much about the protocols: they run on the first Python only. --long makes them long, for one Python: an
# hour or more instead of minutes.
#
# Most tests wait more than they compute, so several run at once; those marked "alone" have the machine to themselves.
# With arguments for pytest it is one plain run of pytest.
#
# Each Python gets an environment of its own, .venv-test-3.X, which is kept until pyproject.toml changes. What is tested
# is the installed package, not the folder. Missing servers are installed where that is possible: on Debian, as root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONSAFEPATH=1 # never import ./cacheside: here, in pytest, and in what the tests start
unset PYTHONPATH

fail() {
    echo "tests/run.sh: $*" >&2
    exit 1
}

as_root_on_debian() { [[ $EUID -eq 0 && -e /etc/debian_version ]] && command -v apt-get >/dev/null; }

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 update </dev/null
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "$@" </dev/null
}

has() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null; }

get_servers() {
    local missing=()
    has redis-server || missing+=(redis-server)
    has memcached || missing+=(memcached)
    { has postgres && has initdb; } || missing+=(postgresql)
    { has mariadbd && has mariadb-install-db; } || missing+=(mariadb-server)
    has openssl || missing+=(openssl)
    [[ ${#missing[@]} -eq 0 ]] && return
    as_root_on_debian || fail "please install ${missing[*]} (so named on Debian), or run: pytest -m 'not server'"
    echo "== installing ${missing[*]}"
    apt_install "${missing[@]}"
}

# Prints the path of Python $1 (as 3.11) if there is one that works: a pyenv shim, for one, may be there and fail.
find_python() {
    local candidate
    while IFS= read -r candidate; do
        # The real path: a virtual environment, active just now, may be gone tomorrow.
        "$candidate" - "$1" 2>/dev/null <<'PYTHON' && return
import ctypes, os, sqlite3, ssl, sys

if "%d.%d" % sys.version_info[:2] != sys.argv[1]:
    sys.exit(1)
print(os.path.realpath(sys.executable))
PYTHON
    done < <(
        type -aP "python$1" || true
        compgen -G "${PYENV_ROOT:-${HOME-}/.pyenv}/versions/$1.*/bin/python$1" | sort -rV || true
        compgen -G "/usr/bin/python$1" || true
        compgen -G "/usr/local/bin/python$1" || true
        type -aP python3 || true
    )
}

# make_environment VERSION PYTHON: .venv-test-VERSION with all that pyproject.toml asks for, and this very checkout.
make_environment() {
    local folder=".venv-test-$1" stamp
    stamp="$(cksum <pyproject.toml) $2"
    if [[ "$(cat "$folder/stamp" 2>/dev/null)" != "$stamp" ]]; then
        echo "== making $folder"
        rm -rf "$folder"
        if ! "$2" -m venv "$folder"; then # Debian's Python has its venv in a package of its own
            as_root_on_debian || fail "$2 makes no virtual environment: please install python$1-venv"
            apt_install "python$1-venv"
            rm -rf "$folder"
            "$2" -m venv "$folder"
        fi
        "$folder/bin/python" - <<'PYTHON' | xargs "$folder/bin/python" -m pip install --quiet '.[test]'
import tomllib

with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"])
PYTHON
        echo "$stamp" >"$folder/stamp"
    fi
    "$folder/bin/python" -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
    "$folder/bin/python" - <<'PYTHON'
import sys, cacheside

if not cacheside.__file__.startswith(sys.prefix):
    sys.exit(f"tests/run.sh: {cacheside.__file__} would be tested, not the installed package")
PYTHON
}

versions=(3.11 3.12 3.13)
while [[ ${1:-} == --python || ${1:-} == --long ]]; do
    if [[ $1 == --long ]]; then
        export CACHESIDE_LONG=1
        shift
    else
        [[ -n ${2:-} ]] || fail "--python needs a version, such as 3.12"
        versions=("$2")
        shift 2
    fi
done

get_servers
found=()
pythons=()
for version in "${versions[@]}"; do
    python="$(find_python "$version")" || true
    [[ -n $python ]] || continue
    found+=("$version")
    pythons+=("$python")
    [[ -z ${CACHESIDE_LONG:-} ]] || break
done
[[ ${#found[@]} -gt 0 ]] || fail "no working Python found of: ${versions[*]}"

declare -A failed=()
logs="$(mktemp -d)"
trap 'jobs -p | xargs --no-run-if-empty kill 2>/dev/null; rm -rf "$logs"' EXIT

declare -A making=()
for index in "${!found[@]}"; do
    make_environment "${found[index]}" "${pythons[index]}" >"$logs/$index" 2>&1 </dev/null &
    making[$index]=$!
done
for index in "${!found[@]}"; do
    wait "${making[$index]}" || failed[${found[index]}]=1
    cat "$logs/$index"
done
[[ ${#failed[@]} -eq 0 ]] || fail "see above"

# run_tests VERSION [arguments for pytest]
run_tests() {
    local version=$1
    shift
    ".venv-test-$version/bin/python" -m pytest "$@" </dev/null || failed[$version]=1
}

workers=$("${pythons[0]}" -c 'import os; print(min(8, 2 * (os.cpu_count() or 1)))')
together=(-n "$workers" --dist loadscope --no-loadscope-reorder) # in the order that conftest.py gives them
for index in "${!found[@]}"; do
    version=${found[index]}
    echo "== Python $version: $("${pythons[index]}" -V), ${pythons[index]}"
    marks=()
    [[ $index -eq 0 ]] || marks=(-m "not proof")
    if [[ $# -gt 0 ]]; then
        run_tests "$version" "${marks[@]}" "$@"
    elif [[ $index -gt 0 ]]; then
        run_tests "$version" "${together[@]}" "${marks[@]}" # what must be alone is a proof
    else
        run_tests "$version" "${together[@]}" -m "not alone"
        run_tests "$version" -m alone ${CACHESIDE_LONG:+-rP} # the long run is for its figures, which the tests print
    fi
done
for version in "${found[@]}"; do
    echo "== Python $version: $([[ -n ${failed[$version]:-} ]] && echo FAILED || echo passed)"
done
[[ ${#failed[@]} -eq 0 ]]
