# The pipeline, stage by stage. Every stage's recipe depends on the one before it, and does only what is left to do.
#
#   just pipeline quickstart
#   just set='poison-features.eps_d=[0.01,0.03] seeds=[0]' pipeline quickstart
#   just backend=wgpu pipeline finetune-cifar10
#   just jobs=4 pipeline findings

# Backend to compute on: flex (CPU), wgpu, cuda, cpu. A cargo feature of the same name is compiled in.
backend := "flex"

# Overrides of the spec, separated by spaces: stage.field=value
set := ""

# Tasks to run side by side; they share the threads of the processor
jobs := "1"

target := env("CARGO_TARGET_DIR", justfile_directory() / "target")
overrides := if set == "" { "" } else { "--set '" + replace(set, " ", "' --set '") + "'" }
binary := quote(target / "release" / "hemlock")
hemlock := binary + " --device " + backend
bench := quote(target / "release" / "hemlock-bench")
tested := "--features hemlock/wgpu,hemlock/" + backend

[private]
default:
    @just --list --unsorted

# Build the binary, with the backend compiled in
build:
    @cargo build --quiet --release --package hemlock --features {{backend}}

# Download, verify and unpack a raw dataset: cifar10, cifar100 (--url URL and --from FILE work offline)
[group('data')]
data NAME *ARGS: build
    @{{hemlock}} data {{NAME}} {{ARGS}}

# Choose, split and decode images
[group('1')]
dataset NAME *ARGS: build
    @{{hemlock}} dataset {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Train an extractor, or import one
[group('2')]
pretrain NAME *ARGS: (dataset NAME)
    @{{hemlock}} pretrain {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Extract features of the downstream dataset, or import them
[group('3')]
features NAME *ARGS: (pretrain NAME)
    @{{hemlock}} features {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Train the clean head, and corrupt it into the attacker's target
[group('4')]
target-params NAME *ARGS: (features NAME)
    @{{hemlock}} target-params {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Find features that corrupt the retrained head
[group('5')]
poison-features NAME *ARGS: (target-params NAME)
    @{{hemlock}} poison-features {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Train a network that turns features back into images
[group('6')]
decoder NAME *ARGS: (poison-features NAME)
    @{{hemlock}} decoder {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Find images with the poisoned features
[group('7')]
invert NAME *ARGS: (decoder NAME)
    @{{hemlock}} invert {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Find poisoned images in pixels, with no features aimed at
[group('7')]
poison-images NAME *ARGS: (invert NAME)
    @{{hemlock}} poison-images {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Find noise that makes images teach nothing
[group('7')]
unlearnable NAME *ARGS: (poison-images NAME)
    @{{hemlock}} unlearnable {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Train victims on clean data
[group('8')]
victim NAME *ARGS: (unlearnable NAME)
    @{{hemlock}} victim {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Retrain victims on poisons and measure them
[group('8')]
evaluate NAME *ARGS: (victim NAME)
    @{{hemlock}} evaluate {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# All stages, and the result table
[group('9')]
pipeline NAME: (evaluate NAME)
    @{{hemlock}} results {{NAME}} {{overrides}}

# Hand what is left to a cluster: just submit slurm NAME, or hyperqueue (--dry-run prints it; docs/cluster.md)
[group('9')]
submit ENGINE NAME *ARGS: build
    @{{hemlock}} submit {{ENGINE}} {{NAME}} {{overrides}} {{ARGS}}

# Print the result table (--json: one object a line)
[group('9')]
results NAME *ARGS: build
    @{{hemlock}} results {{NAME}} {{overrides}} {{ARGS}}

# Write a page with tables, figures and findings, of one or more pipelines: just report NAME... [-o FILE]
[group('ask')]
report +NAMES: build
    @{{hemlock}} report {{NAMES}} {{overrides}}

# Show the tasks, and which would run (--json: the task list for a scheduler)
[group('ask')]
plan NAME *ARGS: build
    @{{hemlock}} plan {{NAME}} {{overrides}} {{ARGS}}

# Show which artifacts are there, and what is in them
[group('ask')]
status NAME *ARGS: build
    @{{hemlock}} status {{NAME}} {{overrides}} {{ARGS}}

# Explain which parameter or input makes a task run
[group('ask')]
why NAME *ARGS: build
    @{{hemlock}} why {{NAME}} {{overrides}} {{ARGS}}

# Write a stage's artifacts as safetensors or pictures: just export NAME STAGE -o DIR [--select seed=0] [--format png]
[group('data')]
export NAME STAGE *ARGS: build
    @{{hemlock}} export {{NAME}} {{STAGE}} {{overrides}} {{ARGS}}

# Show artifacts that no pipeline reaches any more (--delete deletes them)
[group('data')]
gc *ARGS: build
    @{{hemlock}} gc {{ARGS}}

# Compare two settings (just diff NAME --a FIELD=VALUE --b FIELD=VALUE), or two artifact roots (just diff ROOT ROOT)
[group('ask')]
diff ONE *ARGS: build
    @{{hemlock}} diff {{ONE}} {{overrides}} {{ARGS}}

# Run a pipeline on two backends, and compare: just compare-backends NAME flex wgpu [--points 2]
[group('ask')]
compare-backends NAME A B *ARGS:
    @cargo build --quiet --release --package hemlock --features {{A}},{{B}}
    @{{binary}} --device {{A}} --root artifacts/backends/{{A}} run {{NAME}} {{overrides}}
    @{{binary}} --device {{B}} --root artifacts/backends/{{B}} run {{NAME}} {{overrides}}
    @{{binary}} diff artifacts/backends/{{A}} artifacts/backends/{{B}} {{ARGS}}

# Everything CI runs, cheapest first
[group('develop')]
test: lint unit quickstart test-cluster test-wgpu check-cuda

# Formatting, clippy, documentation
[group('develop')]
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

# All tests share one build, which has wgpu in it.
[private]
build-tests:
    cargo test --release --workspace {{tested}} --no-run

# Unit and end-to-end tests
[group('develop')]
unit:
    @command -v chromium >/dev/null || echo "SKIPPED: there is no chromium, so no browser opens the report" >&2
    @python3 -c "import numpy, safetensors" 2>/dev/null || echo "SKIPPED: there is no python3 with numpy and safetensors, so the README's Python is not run" >&2
    if command -v cargo-nextest >/dev/null; then cargo nextest run --release --workspace {{tested}}; else cargo test --release --workspace {{tested}}; fi

# The quickstart in a fresh artifact root: cold, then warm
[group('develop')]
quickstart: build-tests
    tests/quickstart.sh {{hemlock}}

# A tiny pipeline on Slurm and on HyperQueue, whose tasks, workers and controllers are killed. Says so where they are not there
[group('develop')]
test-cluster: build-tests
    tests/cluster/slurm.sh {{binary}}
    tests/cluster/hyperqueue.sh {{binary}}

# A tiny pipeline on wgpu, and its difference to flex. Says so where there is no adapter
[group('develop')]
test-wgpu: build-tests
    tests/wgpu.sh {{binary}}

# Type-check the cuda feature; DOCS_RS keeps build scripts from looking for a CUDA toolkit
[group('develop')]
check-cuda:
    DOCS_RS=1 cargo check --release --package hemlock --features cuda

# Time kernels and stages with Criterion, under five minutes: a table, and benches/results.json (just bench FILTER: the table of some works alone)
[group('develop')]
bench *FILTER:
    @# A table is of one run: what earlier ones measured is not gathered again.
    @rm -rf {{quote(target / "criterion")}}/*/new
    cargo bench --workspace --bench works -- {{FILTER}}
    @cargo build --quiet --release --workspace --bin hemlock-bench
    @{{bench}} collect {{quote(target / "criterion")}} {{if FILTER == "" { "benches/results.json" } else { quote(target / "criterion" / "results.json") }}}

# The same work in PyTorch, in turns in one run: just bench-peer [WORK...] [--rounds 9] (after `pip install torch`; docs/performance.md)
[group('develop')]
bench-peer *ARGS:
    @cargo build --quiet --release --workspace --bin hemlock-bench
    @python3 benches/peer/works.py --bench {{bench}} {{ARGS}}
