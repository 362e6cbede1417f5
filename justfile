# `just` shows what there is; `just check` is what CI runs.

_default:
    @just --list --unsorted

# All that must hold before a change goes in
check:
    bash .ci/run

# Tests, doc tests and the README's example
test *args:
    cargo test {{ args }}

# Clippy with warnings as errors
lint:
    cargo clippy --all-targets --all-features -- -D warnings

# The documentation, private items included
doc *args:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features --document-private-items {{ args }}

# Build the examples
examples:
    cargo build --examples --all-features

# Honest clients beside hostile ones, for a minute
soak *args:
    cargo run --release --example soak -- {{ args }}

# The page of the example ws_page, played in headless Chromium
browser:
    tests/browser/run

# Autobahn's test suite, where there is a Python 2.7
conformance:
    tests/conformance/run

# WebSocket clients of other people: Node, Python, Chromium
clients:
    tests/clients/run

# Format the code
fmt:
    cargo fmt

# Licences, advisories and sources of dependencies (needs cargo-deny)
deny:
    cargo deny check

# The ping/hello server of the example, at most `max_conn` connections
server max_conn="3":
    ZINXIDE_MAX_CONN={{ max_conn }} cargo run --release --example server

# Its client
client:
    cargo run --release --example client

# The same application for a browser: open the URL that it prints
page:
    cargo run --release --features ws --example ws_page
