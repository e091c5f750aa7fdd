# Sourced by the other scripts: a Python with the package installed, in .venv unless a virtual environment is active.
# usage: setup_python [EXTRA]   (EXTRA is one of the optional-dependencies of pyproject.toml)
# shellcheck shell=bash disable=SC1091,SC2015
free_gib() { df -Pk "$1" | awk 'NR == 2 { printf "%d", $4 / 1048576 }'; }

setup_python() {
  local extra="${1:-}" python="" candidate stamp want
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
      for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 13)))' 2>/dev/null && python="$candidate" && break
      done
      if [ -z "$python" ]; then echo "error: Python 3.11 or 3.12 is needed; name one with PYTHON=/path/to/python3.11" >&2; return 1; fi
      echo "creating .venv with $($python --version)"
      "$python" -m venv .venv || { echo "error: could not create .venv (on Debian and Ubuntu: apt install python3-venv)" >&2; return 1; }
    fi
    . .venv/bin/activate
  fi
  stamp="$VIRTUAL_ENV/.rl4vlm-${extra:-core}"
  want="$(cksum < pyproject.toml) $PWD"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    echo "installing rl4vlm${extra:+[$extra]} into $VIRTUAL_ENV (the first time this takes two or three minutes)"
    python -m pip install -q --disable-pip-version-check -e ".${extra:+[$extra]}" || {
      echo "error: installation failed, see the lines above (it needs 10 GiB of disk: $(free_gib "$VIRTUAL_ENV") GiB free at $VIRTUAL_ENV, $(free_gib "${TMPDIR:-/tmp}") GiB at ${TMPDIR:-/tmp})" >&2; return 1; }
    echo "$want" > "$stamp"
  fi
}
