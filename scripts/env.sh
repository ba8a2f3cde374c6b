# Sourced by the scripts beside it. `environment run|dev [VERSION]` sets $python to an interpreter that has llm2ws and everything
# in requirements.lock (run) or requirements-dev.lock (dev), and makes it first when it is missing or out of date. A VERSION such
# as 3.13 has an environment of its own, .venv-3.13.
# Needs a POSIX shell and Python 3.11 or later; uv is used when it is there. All it says goes to stderr: stdout may be audio.

set -eu
supported="3.11 3.12 3.13 3.14" # the versions of Python that the tests are run with, the oldest first
root=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")/.." && pwd)

fail() {
    printf 'llm2ws: %s\n' "$*" >&2
    exit 2
}

environment() {
    lock="$root/requirements.lock"
    [ "$1" = run ] || lock="$root/requirements-dev.lock"
    version=${2-}
    suffix=${version:+-$version}
    _use "$root/.venv$suffix"
    if _current "$1"; then return; fi
    # A checkout that cannot be written to, or an environment of somebody else's, is left alone.
    if [ -e "$venv" ]; then [ -w "$venv" ]; else [ -w "$root" ]; fi || {
        cache=$(_cache) || exit 2
        _use "$cache/$(printf %s "$root" | cksum | tr ' ' -)$suffix"
        if _current "$1"; then return; fi
    }

    if [ -n "$version" ]; then
        base=$(python_of "$version") || exit
    else
        base=$(_base) || fail "Python 3.11 or later is needed, and none is on PATH (tried python3 and python3.11 to python3.14)"
    fi
    command -v uv >/dev/null || "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "uv or Python's venv module is needed: apt install python3-venv"
    exec 8>"$venv.lock"
    "$base" -c 'import fcntl; fcntl.flock(0, fcntl.LOCK_EX)' <&8 # held by this shell, until it closes 8
    if ! _current "$1"; then
        printf 'llm2ws: preparing the Python environment in %s (once)\n' "$venv" >&2
        (_install) >&2 || fail "the Python environment could not be made; what went wrong is above"
        _state >"$venv/llm2ws-$1"
    fi
    exec 8>&-
}

_use() {
    venv=$1
    python="$venv/bin/python"
}

# What the environment depends on: where the checkout is, which interpreter, what is to be installed.
_state() { { readlink -f -- "$root" "$python" && cat "$root/pyproject.toml" "$lock"; } | cksum; }

# `dev` holds all that `run` does.
_current() {
    [ -x "$python" ] || return 1
    if [ "$1" = run ] && [ -e "$venv/llm2ws-dev" ]; then
        (lock="$root/requirements-dev.lock" && [ "$(_state)" = "$(cat "$venv/llm2ws-dev")" ]) && return
    fi
    [ -e "$venv/llm2ws-$1" ] && [ "$(_state)" = "$(cat "$venv/llm2ws-$1")" ]
}

_base() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# python_asked "$@": sets $asked to the VERSION where the arguments begin with --python VERSION, and fails then, so that
# `python_asked "$@" || shift 2` leaves the rest.
python_asked() {
    asked=
    [ "${1-}" = --python ] || return 0
    case " $supported " in *" ${2:-none} "*) ;; *) fail "--python needs a version that is supported: one of $supported" ;; esac
    asked=$2
    return 1
}

# find_python, or an error that says what to do.
python_of() {
    find_python "$1" || fail "Python $1 was not found, neither on PATH as python$1 nor among those of pyenv and uv:" \
        "install it (uv python install $1, or pyenv install $1), or use another (found: $(found_pythons))"
}

# find_python 3.13: the path of such an interpreter, which has what an environment is made of; nothing and 1 if there is none.
# A name that is there says little: pyenv's shims fail for a version that is not chosen. So each is run.
find_python() {
    for candidate in "python$1" python3 "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1."*/bin/python \
        "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-${HOME:-}/.local/share}/uv/python}/cpython-$1."*/bin/python3 \
        "${RUNNER_TOOL_CACHE:-}/Python/$1."*/*/bin/python; do
        "$candidate" -I -c '
import ssl, sys, venv
if "%d.%d" % sys.version_info[:2] != sys.argv[1]:
    sys.exit(1)
print(sys.executable)' "$1" 2>/dev/null && return
    done
    return 1
}

# The supported versions that this machine has.
found_pythons() {
    found=
    for version in $supported; do
        if find_python "$version" >/dev/null; then found="$found${found:+ }$version"; fi
    done
    printf %s "${found:-none}"
}

_cache() {
    umask 077
    for folder in "${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/llm2ws" "${TMPDIR:-/tmp}/llm2ws-$(id -u)"; do
        # One that somebody else made under our name is not ours to run programs from.
        if mkdir -p -- "$folder" 2>/dev/null && [ -w "$folder" ] && [ -O "$folder" ]; then
            printf '%s' "$folder"
            return
        fi
    done
    fail "neither $root nor a cache folder can be written to; set TMPDIR to a folder that can"
}

# `editable=` installs a copy, which does not need the checkout any more.
_install() {
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
    if ! _proxy_answers; then
        printf 'llm2ws: the proxy that is set does not answer; installing without it\n' >&2
        unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
    fi
    if command -v uv >/dev/null; then
        [ -w "${HOME:-/nonexistent}" ] || export UV_NO_CACHE=1
        [ ! -e /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS=1
        # An environment whose interpreter has since been replaced by the next minor version has no packages.
        "$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.isdir(sysconfig.get_path("purelib")))' 2>/dev/null ||
            uv venv --quiet --clear --no-project --python "$base" -- "$venv" || return
        set -- uv pip install --quiet --compile-bytecode --python "$python"
    else
        "$python" -m pip --version >/dev/null 2>&1 || "$base" -m venv --clear -- "$venv" || return
        set -- "$python" -m pip install -qq
    fi
    "$@" --require-hashes -r "$lock" && "$@" --no-deps --no-build-isolation ${editable--e} "$root"
}

# pip and uv would try a dead proxy for minutes.
_proxy_answers() {
    "$base" -c '
import socket, sys, urllib.parse, urllib.request
proxies = urllib.request.getproxies()
proxy = proxies.get("https") or proxies.get("all")
if proxy:
    url = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        socket.create_connection((url.hostname, url.port or 80), 5).close()
    except (OSError, ValueError):
        sys.exit(1)
'
}
