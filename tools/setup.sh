#!/bin/sh
# Installs what is missing to run and test Shirako from this folder: Debian packages and a virtual
# environment in .venv. Says what it does on standard error; does nothing when all is there.
set -eu
cd "$(dirname "$0")/.."

PACKAGES="slapd ldap-utils openssh-server openssh-client iproute2 procps libnss-ldapd nslcd postgresql"
PYTHON=${PYTHON:-python3}

say() { echo "setup: $*" >&2; }

missing_packages() {
    for package in $PACKAGES; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$state" = installed ] || printf '%s ' "$package"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo "$@"
    else
        say "this needs root: run it as root, or install these packages yourself:"
        say "    apt-get install $missing"
        exit 1
    fi
}

install_packages() {
    say "installing Debian packages: $missing"
    # A policy of 101 keeps the new daemons from starting: the testbed runs its own, privately.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        as_root sh -c "printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy"
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    as_root apt-get update -qq >&2
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends $missing >&2
}

missing=$(missing_packages)
if ! "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
    missing="$missing python3-venv"
fi
[ -z "$missing" ] || install_packages

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "Python 3.11 or newer is needed, and $PYTHON is $("$PYTHON" -V); set PYTHON=..."
    exit 1
fi

# The stamp holds what the environment was made from; a change of either makes it anew.
want="$("$PYTHON" -V) $(sha256sum pyproject.toml) $PWD"
if [ "$(cat .venv/.made-from 2>/dev/null || true)" != "$want" ]; then
    say "making the virtual environment .venv and installing PyPI packages (a minute or so)"
    [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --editable . --group dev >&2
    echo "$want" > .venv/.made-from
    say "done"
fi
