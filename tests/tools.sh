# What the scripts in the folders here share; sourced by them, in the root of the repository.

have() { command -v "$1" >/dev/null 2>&1; }

# Installs Debian's packages. Nobody's machine is changed unasked: CI's is there for that, and so is a container's.
install() {
    have apt-get || return 1
    local as=()
    if [ "$(id -u)" != 0 ]; then
        [ "${CI:-}" = true ] && have sudo || return 1
        as=(sudo -n)
    fi
    echo "installing $*"
    as+=(env DEBIAN_FRONTEND=noninteractive timeout --kill-after=10)
    # A list that is out of date may still do.
    "${as[@]}" 120 apt-get -q update >/dev/null 2>&1 || true
    "${as[@]}" 480 apt-get -q install -y --no-install-recommends "$@" >/dev/null 2>&1 </dev/null
}

# Builds an example, by default as .ci/run has built it already, and prints its path.
example() {
    cargo build --locked --all-features --example "$@" --message-format=json-render-diagnostics |
        sed -n 's/.*"name":"'"$1"'".*"executable":"\([^"]*\)".*/\1/p'
}

# Starts a program that prints `listening at <url>` for each of so many endpoints: `start_server <count> <log>
# <program> [<argument>...]`. Sets `server`, its process, and `urls`.
start_server() {
    local count=$1 log=$2
    shift 2
    : >"$log"
    "$@" >>"$log" 2>&1 &
    server=$!
    for _ in {1..200}; do
        mapfile -t urls < <(sed -n 's/^listening at //p' "$log")
        [ "${#urls[@]}" -lt "$count" ] || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    cat "$log" >&2
    echo 'failed: the server does not listen' >&2
    return 1
}
