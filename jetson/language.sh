# torch and bitsandbytes, which run the language model. Sourced by install.sh, never run.
# shellcheck shell=bash

TORCH_THERE=0

# first_file PATTERN: the first file that matches.
first_file() {
    local found
    found=$(compgen -G "$1") || return
    printf '%s' "${found%%$'\n'*}"
}

# find_language: where both will come from, before anything is changed.
find_language() {
    if ! ((LANGUAGE)); then return; fi
    find_torch
    find_bitsandbytes
    if builds_bitsandbytes; then find_compiler; fi
}

find_torch() {
    if [[ -z $TORCH_WHEEL && -n $WHEELS ]]; then TORCH_WHEEL=$(first_file "$WHEELS/torch-*.whl" || true); fi
    if [[ -n $TORCH_WHEEL || -n $INDEX_URL ]]; then return; fi
    if look "$PYTHON" -c 'import torch' 2>/dev/null; then
        TORCH_THERE=1
    else
        missing "no torch for this JetPack is named" \
            "--torch-wheel FILE or --index-url URL; jetson/README.md says where such a wheel comes from"
    fi
}

# Where a wheel built here is kept, so that it is built once for each JetPack and version.
built_wheels() { printf '%s' "$PREFIX/wheels/jetpack$JETPACK-bitsandbytes-$BITSANDBYTES_TAG"; }

# find_bitsandbytes: what is installed first. No name of a wheel says whether its kernels run here: they are launched.
#   BITSANDBYTES_WHEEL=FILE  of --wheels, or built here before
#   BITSANDBYTES_INDEX=1     the package index's: on CUDA 13 (JetPack 7) its build for servers may run on L4T
#   neither                  built here: on CUDA 12 (JetPack 6) the index's is known to fail at its first kernel
find_bitsandbytes() {
    BITSANDBYTES_WHEEL="" BITSANDBYTES_INDEX=0
    if [[ -n $WHEELS ]]; then BITSANDBYTES_WHEEL=$(first_file "$WHEELS/bitsandbytes-*.whl" || true); fi
    if [[ -z $BITSANDBYTES_WHEEL ]]; then find_built; fi
    if [[ -z $BITSANDBYTES_WHEEL && $JETPACK == 7 ]] && ! ((OFFLINE)); then BITSANDBYTES_INDEX=1; fi
}

# find_built: a wheel that was built here before, for this JetPack and version.
find_built() {
    local built
    built=$(first_file "$ROOT$(built_wheels)/bitsandbytes-*.whl" || true)
    BITSANDBYTES_WHEEL=${built#"$ROOT"}
}

builds_bitsandbytes() { ((LANGUAGE)) && [[ -z $BITSANDBYTES_WHEEL ]] && ! ((BITSANDBYTES_INDEX)); }

find_compiler() {
    if [[ ! -x $ROOT$CUDA/bin/nvcc ]]; then
        missing "$CUDA/bin/nvcc is not there, and bitsandbytes has to be built" "sudo apt-get install nvidia-jetpack"
    fi
    if ((OFFLINE)) && [[ -z $SOURCE ]]; then
        missing "bitsandbytes has to be built, and --offline allows no clone" "--bitsandbytes-source DIR, or its wheel"
    fi
}

install_torch() {
    if ((TORCH_THERE)); then
        kept "torch, which is there"
    elif [[ -n $TORCH_WHEEL ]]; then
        pip install "$TORCH_WHEEL"
    elif [[ -n $INDEX_URL ]]; then
        pip install --index-url "$INDEX_URL" torch
    fi
}

# A first kernel that fails with "named symbol not found" comes from a wheel that was not built on L4T.
build_bitsandbytes() {
    local source=${SOURCE:-$PREFIX/build/bitsandbytes} build=$PREFIX/build/objects
    remove "$PREFIX/build"
    if [[ -z $SOURCE ]]; then
        run git clone --quiet --depth 1 --branch "$BITSANDBYTES_TAG" "$BITSANDBYTES_REPOSITORY" "$source"
    fi
    run cmake -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCOMPUTE_BACKEND=cuda \
        "-DCOMPUTE_CAPABILITY=$COMPUTE_CAPABILITY" "-DCMAKE_CUDA_COMPILER=$CUDA/bin/nvcc"
    run cmake --build "$build" --parallel "$BUILD_JOBS"
    # What was just built is packed: else CMake would run once more, in an environment of its own, for the CPU alone.
    # --no-build-isolation: what its pyproject.toml asks for is installed here.
    pip install scikit-build-core "setuptools>=77.0.3" trove-classifiers wheel
    SETTING=BNB_SKIP_CMAKE=1 pip wheel --no-build-isolation --no-deps --wheel-dir "$(built_wheels)" "$source"
    remove "$PREFIX/build"
}

install_bitsandbytes() {
    if ((BITSANDBYTES_INDEX)); then
        pip install --no-deps "bitsandbytes==$BITSANDBYTES_TAG"
        return
    fi
    if builds_bitsandbytes; then
        build_bitsandbytes
        find_built
    else
        kept "$BITSANDBYTES_WHEEL"
    fi
    # By force: a wheel of the same version from elsewhere may be installed.
    pip install --force-reinstall --no-deps "${BITSANDBYTES_WHEEL:-$(built_wheels)/bitsandbytes-$BITSANDBYTES_TAG-*.whl}"
}

# judge_bitsandbytes: a build that was not made here is kept only if its kernels run, as the service's user launches them.
judge_bitsandbytes() {
    if ! ((LANGUAGE)) || [[ $BITSANDBYTES_WHEEL == "$(built_wheels)"/* ]] || builds_bitsandbytes; then return; fi
    say "bitsandbytes' kernels, launched; where this build's fail, one is built here"
    if attempt runuser -u edgeq -- "$PYTHON" -m edgeq.doctor.nf4_launch; then return; fi
    say "they fail: bitsandbytes, built here"
    BITSANDBYTES_INDEX=0
    find_built
    if builds_bitsandbytes; then
        find_compiler
        packages
    fi
    install_bitsandbytes
    hold_versions
}

# hold_versions: both are written down as they are, so that pip brings no others with edgeq.
hold_versions() {
    local held=$PREFIX/constraints.txt now
    if ((DRY_RUN)); then
        step write "$held (torch and bitsandbytes as they are installed)"
        return
    fi
    now=$(mktemp)
    look "$PYTHON" -m pip list --format=freeze | grep -E '^(torch|bitsandbytes)==' >"$now" || true
    place_file 0644 "$now" "$held"
    rm -f "$now"
}
