# Sourced by the other scripts. set_up EXTRAS makes .venv in the repository root, once, and changes to that directory.
#
#   PYTHON   the Python for a new .venv (default python3); 3.10 or newer

heading() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# set_up ""         for the library and its commands
# set_up "[test]"   also for the tests
set_up() {
    local extras=$1 recorded wanted
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    recorded=.venv/installed$extras
    # Everything that the installation depends on, including its path: a moved .venv does not work.
    wanted=$(cat constraints.txt pyproject.toml <(pwd -P) | cksum)
    if [[ -x .venv/bin/python && "$(cat "$recorded" 2>/dev/null)" == "$wanted" ]]; then
        echo "using $PWD/.venv"
        return
    fi

    heading "Setting up .venv (once; again when the pinned dependencies change)"
    local python=.venv/bin/python
    if ! "$python" -c '' 2>/dev/null; then
        local maker=${PYTHON:-python3}
        command -v "$maker" >/dev/null || fail "$maker not found; install Python 3.10 or newer, or set PYTHON to one"
        check_version "$maker"
        echo "making $PWD/.venv with $("$maker" --version)"
        "$maker" -m venv --clear .venv
    fi
    check_version "$python"
    rm -f .venv/installed*
    "$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".$extras"
    echo "$wanted" | tee "$recorded" >.venv/installed # an environment with extras also serves without them
    echo "made $PWD/.venv"
}

check_version() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "Python 3.10 or newer is needed, but $1 is $("$1" --version 2>&1); set PYTHON to a newer one"
}
