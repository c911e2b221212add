# The pipeline, stage by stage. Every stage's recipe depends on the one before it, and does only what is left to do;
# `pipeline` does all of them in one run, which says once what there is to do and what was done.
#
#   just pipeline quickstart
#   just set='poison-features.poison_fraction=[0.01,0.03] seeds=[0]' pipeline quickstart
#   just backend=wgpu pipeline finetune-cifar10
#   just jobs=4 pipeline findings
#   just as=try1 set='seeds=[0]' pipeline quickstart; just as=try1 results quickstart

# Backend to compute on: flex (CPU), wgpu, cuda, cpu. A cargo feature of the same name is compiled in.
backend := "flex"

# Overrides of the spec, separated by spaces: stage.field=value
set := ""

# Name of a run: with set=... it is given, alone it stands for the overrides that it was given with
as := ""

# Tasks to run side by side; they share the threads of the processor
jobs := "1"

target := env("CARGO_TARGET_DIR", justfile_directory() / "target")
# One begins where a space stands before a field's name and `=`; other spaces are part of a value.
separated := replace_regex(replace(trim(set), "'", "'\\''"), '\s+((?:[a-z][a-z-]*\.[\w.-]+|seeds|profile|description)\s*=)', "' --set '$1")
named := if as == "" { "" } else { "--as " + quote(as) }
overrides := named + if set == "" { "" } else { " --set '" + separated + "'" }
binary := quote(target / "release" / "hemlock")
hemlock := binary + " --device " + backend
bench := quote(target / "release" / "hemlock-bench")
# What the book is made from: docs/ and the documents beside it, in one folder, so that links between them hold.
pages := target / "book-pages"
tested := "--features hemlock/wgpu,hemlock/" + backend

[private]
default:
    @just --list --unsorted

# Build the binary, with the backend compiled in. A first build says what it costs; cargo shows its progress
build: (first-build backend)
    @cargo build --release --package hemlock --features {{backend}}

# The backend is the largest part of what is compiled, and is compiled once.
[private]
first-build BACKENDS:
    @for backend in $(echo {{BACKENDS}} | tr , ' '); do \
        ls {{quote(target)}}/release/deps/libburn_"$backend"-*.rlib >/dev/null 2>&1 && continue; \
        echo "The first build with the backend $backend compiles some 400 crates and build scripts, burn among them: about 9" \
            "minutes on two cores, less on more, and 1 GB in {{target}}. Later ones take seconds." >&2; break; \
    done

# Variables stand before the recipe, and so do overrides. What stands behind it would be met at the last stage alone,
# after all others have run without.
[private]
behind ARGS:
    @case {{quote(" " + ARGS)}} in *" "[a-z]*=*|*" --set"*|*" --as"*) \
        echo "error: variables and overrides stand before the recipe: just set='STAGE.FIELD=VALUE' RECIPE NAME" >&2; exit 2;; esac

# Download, verify and unpack a raw dataset: cifar10, cifar100 (--url URL and --from FILE work offline)
[group('data')]
data NAME *ARGS: build
    @{{hemlock}} data {{NAME}} {{ARGS}}

# Write a first spec for images or features of your own: just init --images DIR, or just init --features FILE
[group('data')]
init *ARGS: build
    @{{hemlock}} init {{ARGS}}

# Choose, split and decode images
[group('1')]
dataset NAME *ARGS: build
    @{{hemlock}} dataset {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Train an extractor, or import one
[group('2')]
pretrain NAME *ARGS: (behind ARGS) (dataset NAME "--on-the-way")
    @{{hemlock}} pretrain {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Extract features of the downstream dataset, or import them
[group('3')]
features NAME *ARGS: (behind ARGS) (pretrain NAME "--on-the-way")
    @{{hemlock}} features {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Train the clean head, and corrupt it into the attacker's target
[group('4')]
target-params NAME *ARGS: (behind ARGS) (features NAME "--on-the-way")
    @{{hemlock}} target-params {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Find features that corrupt the retrained head
[group('5')]
poison-features NAME *ARGS: (behind ARGS) (target-params NAME "--on-the-way")
    @{{hemlock}} poison-features {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Train a network that turns features back into images
[group('6')]
decoder NAME *ARGS: (behind ARGS) (poison-features NAME "--on-the-way")
    @{{hemlock}} decoder {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Find images with the poisoned features
[group('7')]
invert NAME *ARGS: (behind ARGS) (decoder NAME "--on-the-way")
    @{{hemlock}} invert {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Find poisoned images in pixels, with no features aimed at
[group('7')]
poison-images NAME *ARGS: (behind ARGS) (invert NAME "--on-the-way")
    @{{hemlock}} poison-images {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Find noise that makes images teach nothing
[group('7')]
unlearnable NAME *ARGS: (behind ARGS) (poison-images NAME "--on-the-way")
    @{{hemlock}} unlearnable {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Train victims on clean data
[group('8')]
victim NAME *ARGS: (behind ARGS) (unlearnable NAME "--on-the-way")
    @{{hemlock}} victim {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Apply defences to clean data
[group('8')]
defence NAME *ARGS: (behind ARGS) (victim NAME "--on-the-way")
    @{{hemlock}} defence {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Repair a head after some poisons were found
[group('8')]
repair NAME *ARGS: (behind ARGS) (defence NAME "--on-the-way")
    @{{hemlock}} repair {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# Retrain victims on poisons and measure them
[group('8')]
evaluate NAME *ARGS: (behind ARGS) (repair NAME "--on-the-way")
    @{{hemlock}} evaluate {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}

# All stages, and the result table
[group('9')]
pipeline NAME *ARGS: (behind ARGS) build
    @{{hemlock}} run {{NAME}} --jobs {{jobs}} {{overrides}} {{ARGS}}
    @{{hemlock}} results {{NAME}} {{overrides}}

# Hand what is left to a cluster: just submit slurm NAME, or hyperqueue (--dry-run prints it; docs/cluster.md)
[group('9')]
submit ENGINE NAME *ARGS: build
    @{{hemlock}} submit {{ENGINE}} {{NAME}} {{overrides}} {{ARGS}}

# Print the result table (--wide, --sort COLUMN, --legend; --csv and --json for programs)
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
compare-backends NAME A B *ARGS: (first-build A + "," + B)
    @cargo build --release --package hemlock --features {{A}},{{B}}
    @{{binary}} --device {{A}} --root artifacts/backends/{{A}} run {{NAME}} {{overrides}}
    @{{binary}} --device {{B}} --root artifacts/backends/{{B}} run {{NAME}} {{overrides}}
    @{{binary}} diff artifacts/backends/{{A}} artifacts/backends/{{B}} {{ARGS}}

# All checks, cheapest first. CI links the cuda binary as well, where LLVM can be had
[group('develop')]
test: lint deny book unit wheel-test fuzz quickstart test-cluster test-wgpu check-cuda

# Formatting, spelling, clippy, documentation
[group('develop')]
lint:
    cargo fmt --all --check
    @if command -v typos >/dev/null; then typos; else echo "SKIPPED: there is no typos (pip install typos), so spelling is not checked" >&2; fi
    cargo clippy --release --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

# Make the reference of specs, results and commands anew, from the types that are read and written: docs/reference
[group('develop')]
reference:
    @cargo build --release --workspace
    @{{binary}} reference docs/reference

# Build the documentation as a book: target/book/index.html
[group('develop')]
book:
    @if ! command -v mdbook >/dev/null; then \
        echo "SKIPPED: there is no mdbook (cargo install --locked mdbook), so the book is not built" >&2; \
    else \
        rm -rf {{quote(pages)}} && mkdir -p {{quote(pages)}} && cp -r docs/images docs/reference notebooks {{quote(pages)}} && \
        for file in docs/*.md *.md; do \
            sed -E 's#\]\(\.\./([A-Z]+\.md|notebooks/)#](\1#g; s#\]\(docs/#](#g' "$file" >{{quote(pages)}}/"${file#docs/}"; \
        done && rm {{quote(pages / "README.md")}} && \
        MDBOOK_BOOK__SRC={{quote(pages)}} mdbook build --dest-dir {{quote(target / "book")}}; \
    fi

# Licences, sources and versions of dependencies: deny.toml
[group('develop')]
deny:
    @if command -v cargo-deny >/dev/null; then cargo deny --log-level error check licenses bans sources; \
    else echo "SKIPPED: there is no cargo-deny (cargo install --locked cargo-deny), so licences are not checked" >&2; fi

# All tests share one build, which has wgpu in it.
[private]
build-tests:
    cargo test --release --workspace {{tested}} --no-run

# Unit and end-to-end tests
[group('develop')]
unit:
    @command -v chromium >/dev/null || echo "SKIPPED: there is no chromium, so no browser opens the report" >&2
    @${HEMLOCK_PYTHON:-python3} -c "import numpy, safetensors" 2>/dev/null || echo "SKIPPED: there is no python3 with numpy and safetensors, so the README's Python is not run, and no extractor in a process is tested" >&2
    if command -v cargo-nextest >/dev/null; then cargo nextest run --release --workspace {{tested}}; else cargo test --release --workspace {{tested}}; fi

# Build the Python module and the command as one wheel, in target/wheels: just wheel, then pip install it (docs/python.md)
[group('develop')]
wheel BACKENDS=backend:
    @command -v maturin >/dev/null || { echo "error: there is no maturin (pip install maturin), which builds the wheel" >&2; exit 2; }
    @rm -f {{quote(target / "wheels")}}/hemlock_poisoning-*.whl
    maturin build --release --manifest-path crates/python/Cargo.toml --features {{BACKENDS}} --out {{quote(target / "wheels")}}

# Install the wheel into a fresh environment, and run its tests there. It is built with the backends of the tests, which are there
[group('develop')]
wheel-test:
    @if ! command -v maturin >/dev/null; then \
        echo "SKIPPED: there is no maturin (pip install maturin), so no wheel is built and tested" >&2; \
        test -z "${HEMLOCK_REQUIRE_PYTHON:-}"; \
    else {{just_executable()}} backend={{backend}} wheel wgpu,{{backend}} && crates/python/tests/run {{quote(target / "wheels")}} 45; fi

# Hostile variants of specs and of files by other tools, for so many seconds a reader
[group('develop')]
fuzz SECONDS="10":
    if command -v cargo-nextest >/dev/null; then HEMLOCK_FUZZ_SECONDS={{SECONDS}} cargo nextest run --release --workspace {{tested}} -E 'test(fuzz_)'; else HEMLOCK_FUZZ_SECONDS={{SECONDS}} cargo test --release --workspace {{tested}} fuzz_; fi

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

# Link a binary for machines with NVIDIA GPUs, and pack it: target/hemlock-cuda.xz runs there without Rust (docs/gpu.md)
[group('develop')]
link-cuda: (link "cuda")

# The same with burn's just-in-time compiler for the processor: target/hemlock-cpu.xz
[group('develop')]
link-cpu: (link "cpu")

[private]
link BACKEND: (first-build BACKEND)
    cargo build --release --package hemlock --package hemlock-bench --features hemlock/{{BACKEND}},hemlock-bench/{{BACKEND}}
    strip -o {{quote(target / "hemlock-" + BACKEND)}} {{binary}}
    strip -o {{quote(target / "hemlock-bench-" + BACKEND)}} {{bench}}
    xz --force --threads 0 {{quote(target / "hemlock-" + BACKEND)}} {{quote(target / "hemlock-bench-" + BACKEND)}}
    @ls -lh {{quote(target / "hemlock-" + BACKEND + ".xz")}} {{quote(target / "hemlock-bench-" + BACKEND + ".xz")}}

# Time kernels and stages with Criterion, under five minutes: a table, and benches/results.json (just bench FILTER: the table of some works alone)
[group('develop')]
bench *FILTER:
    @# A table is of one run: what earlier ones measured is not gathered again.
    @rm -rf {{quote(target / "criterion")}}/*/new
    cargo bench --workspace --bench works -- {{FILTER}}
    @cargo build --release --workspace --bin hemlock-bench
    @{{bench}} collect {{quote(target / "criterion")}} {{if FILTER == "" { "benches/results.json" } else { quote(target / "criterion" / "results.json") }}}

# Works of a GPU's size beside PyTorch, eager and compiled: just backend=cuda gpu-bench [WORK...] (docs/gpu.md)
[group('develop')]
gpu-bench *ARGS:
    @cargo build --release --workspace --bin hemlock-bench --features hemlock-bench/{{backend}}
    @python3 benches/peer/gpu.py --bench {{bench}} --device {{backend}} {{ARGS}}

# The same work in PyTorch, in turns in one run: just bench-peer [WORK...] [--rounds 9] (after `pip install torch`; docs/performance.md)
[group('develop')]
bench-peer *ARGS:
    @cargo build --release --workspace --bin hemlock-bench
    @python3 benches/peer/works.py --bench {{bench}} {{ARGS}}
