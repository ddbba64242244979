# What one does daily; `just` lists it. Each is a plain command, for those without just.

_:
    @just --list

# Everything on this machine, on the Ollama at OLLAMA_HOST
up:
    cargo build --workspace --bins
    target/debug/foreman up --verbose

# The same on the simulator
demo:
    cargo build --workspace --bins
    target/debug/foreman demo --verbose

# Everything that CI runs, or only the tests with this in their names
test *names:
    deploy/test {{names}}

# Formats, and looks for what CI would refuse
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings

# After a change to a query or a migration
prepare:
    shared/store/prepare

# The stack on a Docker engine: built, used, killed, backed up and restored
smoke:
    deploy/smoke
