# Sourced by scripts/demo and scripts/test. set_up EXTRAS makes .venv in the repository root, once, and goes there.
#
#   PYTHON   the Python to make .venv with (default python3); 3.10 or newer

heading() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# set_up ""         what the library and its commands need
# set_up "[test]"   that, and what the tests need
set_up() {
    local extras=$1 recorded wanted
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    recorded=.venv/installed$extras
    # Everything that decides what is installed, and where: a moved .venv or checkout is of no use.
    wanted=$(cat constraints.txt pyproject.toml <(pwd -P) | cksum)
    if [[ -x .venv/bin/python && "$(cat "$recorded" 2>/dev/null)" == "$wanted" ]]; then
        echo "using $PWD/.venv"
        return
    fi

    heading "Setting up .venv (once; again when the pinned dependencies change)"
    local python=.venv/bin/python
    if ! "$python" -c '' 2>/dev/null; then
        local maker=${PYTHON:-python3}
        command -v "$maker" >/dev/null || fail "there is no $maker; install Python 3.10 or newer, or set PYTHON to one"
        check_version "$maker"
        echo "making $PWD/.venv with $("$maker" --version)"
        "$maker" -m venv --clear .venv
    fi
    check_version "$python"
    rm -f .venv/installed*
    "$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".$extras"
    echo "$wanted" | tee "$recorded" >.venv/installed # with the extras, all the rest is there too
    echo "made $PWD/.venv"
}

check_version() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "Python 3.10 or newer is needed, and $1 is $("$1" --version 2>&1); set PYTHON to a newer one"
}
