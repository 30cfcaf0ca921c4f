#!/usr/bin/env bash
# Install edgeq on a Jetson Orin with JetPack 6 or 7.2: environment, user, service unit, presets. Safe to run again.
#
#   sudo jetson/install.sh --torch-wheel FILE [options]
#
#   --edgeq PATH               edgeq's wheel or checkout (the checkout that this script lies in)
#   --torch-wheel FILE         torch for this JetPack
#   --index-url URL            or: a package index that has torch for this JetPack
#   --wheels DIR               a directory with wheels; torch-*.whl and bitsandbytes-*.whl in it are used
#   --offline                  nothing from any package index: all is in --wheels
#   --bitsandbytes-source DIR  its sources, instead of a clone of BITSANDBYTES_TAG
#   --no-language              neither torch nor bitsandbytes: for bundles without a language model
#   --extras NAMES             further extras of edgeq, with commas: camera, retrieval, structured
#   --jetpack 6|7              do not look which it is
#   --headless                 no desktop from the next start on, compressed swap (presets.sh headless)
#   --power NAME               a power mode by its name (presets.sh power NAME)
#   --no-doctor                do not end with `edgeq doctor`
#   --uninstall                remove what this script put there; bundles, configuration and user stay
#   --dry-run                  say every step, take none
#   --root DIR                 a scratch root, for trying out: see machine.sh
#
# Exit status: 0 done, 1 something is missing or left to do (edgeq doctor, a dry run, a restart), 2 bad input or machine.
set -euo pipefail
shopt -s inherit_errexit

# What may have to change with the years, and where to look it up.
BITSANDBYTES_REPOSITORY=https://github.com/bitsandbytes-foundation/bitsandbytes.git
BITSANDBYTES_TAG=0.50.2 # its releases page; edgeq's range is in pyproject.toml under `language`
COMPUTE_CAPABILITY=87   # every Orin; NVIDIA's page "CUDA GPUs" for anything else
BUILD_JOBS=4            # nvcc takes up to 2 GB for each
declare -A JETPACK_OF_RELEASE=([36.]=6 [39.]=7) # from L4T's release: the first lines of each Jetson Linux release note

PREFIX=/opt/edgeq
STATE=/var/lib/edgeq
CONFIGURATION=/etc/edgeq
UNIT=/etc/systemd/system/edgeq.service
COMMAND=/usr/local/bin/edgeq
CUDA=/usr/local/cuda
PYTHON=$PREFIX/venv/bin/python

export DEBIAN_FRONTEND=noninteractive

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=machine.sh
source "$HERE/machine.sh"
# shellcheck source-path=SCRIPTDIR source=platform.sh
source "$HERE/platform.sh"
# shellcheck source-path=SCRIPTDIR source=language.sh
source "$HERE/language.sh"

EDGEQ=$(dirname "$HERE")
TORCH_WHEEL="" INDEX_URL="" WHEELS="" SOURCE="" JETPACK="" POWER="" BITSANDBYTES_WHEEL=""
EXTRAS="device,service" BITSANDBYTES_INDEX=0 OFFLINE=0 LANGUAGE=1 HEADLESS=0 DOCTOR=1 UNINSTALL=0

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

value() {
    if (($# < 2)) || [[ -z $2 ]]; then fail "$1 wants a value" "$0 --help"; fi
    printf '%s' "$2"
}

# existing OPTION PATH: the whole path, since pip takes a bare name for a package of an index.
existing() {
    local path
    path=$(value "$@")
    realpath -e "$path" 2>/dev/null || fail "$1: there is no $path" "check the path"
}

options() {
    while (($#)); do
        case $1 in
            --edgeq) EDGEQ=$(existing "$@"); shift ;;
            --torch-wheel) TORCH_WHEEL=$(existing "$@"); shift ;;
            --wheels) WHEELS=$(existing "$@"); shift ;;
            --bitsandbytes-source) SOURCE=$(existing "$@"); shift ;;
            --root) ROOT=$(existing "$@"); shift ;;
            --index-url) INDEX_URL=$(value "$@"); shift ;;
            --jetpack) JETPACK=$(value "$@"); shift ;;
            --power) POWER=$(value "$@"); shift ;;
            --extras) EXTRAS+=,$(value "$@"); shift ;;
            --offline) OFFLINE=1 ;;
            --no-language) LANGUAGE=0 ;;
            --headless) HEADLESS=1 ;;
            --no-doctor) DOCTOR=0 ;;
            --uninstall) UNINSTALL=1 ;;
            --dry-run) DRY_RUN=1 ;;
            -h | --help) usage; exit ;;
            *) fail "$1 is not an option" "$0 --help" ;;
        esac
        shift
    done
    if [[ $JETPACK != "" && $JETPACK != [67] ]]; then fail "--jetpack is 6 or 7, not $JETPACK" "$0 --help"; fi
    if [[ ! $EXTRAS =~ ^[a-z]+(,[a-z]+)*$ ]]; then fail "--extras are names with commas, not ${EXTRAS#device,service,}" "$0 --help"; fi
    if ((OFFLINE)) && [[ -z $WHEELS ]]; then fail "--offline needs --wheels" "name the directory with the wheels"; fi
}

# --- packages, user, environment --------------------------------------------------------------------------------------

packages() {
    local package wanted=(python3-venv) absent=()
    if ((LANGUAGE)); then wanted+=(libgomp1); fi # bitsandbytes' library for the CPU; without it that crawls
    if builds_bitsandbytes; then wanted+=(build-essential cmake git); fi
    for package in "${wanted[@]}"; do
        if ! has_package "$package"; then absent+=("$package"); fi
    done
    if ((${#absent[@]} == 0)); then
        kept "packages ${wanted[*]}"
        return
    fi
    run apt-get update
    # Never an upgrade: it could bring another TensorRT.
    run apt-get install --yes --no-install-recommends --no-upgrade "${absent[@]}"
}

account() {
    local group groups
    if look getent passwd edgeq >/dev/null; then
        kept "user edgeq"
    else
        run useradd --system --user-group --home-dir "$STATE" --no-create-home --shell /usr/sbin/nologin edgeq
    fi
    groups=" $(look id -nG edgeq 2>/dev/null || true) "
    for group in video render; do # the GPU's device files belong to these
        if [[ $groups == *" $group "* ]] || ! look getent group "$group" >/dev/null; then continue; fi
        run usermod --append --groups "$group" edgeq
    done
}

environment() {
    if [[ -x $ROOT$PYTHON ]]; then
        kept "$PREFIX/venv"
        return
    fi
    # The system's packages are seen from inside: TensorRT's bindings come from there, and for that Python only.
    run /usr/bin/python3 -m venv --system-site-packages "$PREFIX/venv"
}

# pip VERB ARGUMENT...
pip() {
    local from=()
    if [[ -n $WHEELS ]]; then from+=(--find-links "$WHEELS"); fi
    if ((OFFLINE)); then from+=(--no-index); fi
    run "$PYTHON" -m pip --disable-pip-version-check --no-input "$1" "${from[@]}" "${@:2}"
}

# --- edgeq itself -----------------------------------------------------------------------------------------------------

# `service`: the unit runs `edgeq serve`.
install_edgeq() {
    if ((LANGUAGE)); then
        hold_versions
        pip install --constraint "$PREFIX/constraints.txt" "${EDGEQ}[$EXTRAS,language]"
    else
        pip install "${EDGEQ}[$EXTRAS]"
    fi
    place_link "$PREFIX/venv/bin/edgeq" "$COMMAND"
}

configuration() {
    place_directory 0755 root:root "$CONFIGURATION"
    place_directory 0755 root:root "$CONFIGURATION/keys"
    place_directory 0750 root:edgeq "$STATE" # bundles: the service may read them, and change none
    place_directory 0750 edgeq:edgeq "$STATE/engines" # without it the user edgeq would keep engines in a cache
    if [[ -e $ROOT$CONFIGURATION/edgeq.conf ]]; then
        kept "$CONFIGURATION/edgeq.conf, which is yours to edit"
    else
        place_file 0644 "$HERE/edgeq.conf" "$CONFIGURATION/edgeq.conf"
    fi
}

# The unit is installed and not enabled: `edgeq serve` has to be there, and a bundle.
unit() {
    place_file 0644 "$HERE/edgeq.service" "$UNIT"
    if ((CHANGED)); then run systemctl daemon-reload; fi
    say "  not enabled: edgeq.service; see jetson/README.md"
}

# preset WORD...: what is left for a person to do, a restart say, does not end the installation.
preset() {
    local flags=() status=0
    if ((DRY_RUN)); then flags+=(--dry-run); fi
    if [[ -n $ROOT ]]; then flags+=(--root "$ROOT"); fi
    "$HERE/presets.sh" "${flags[@]}" "$@" || status=$?
    if ((status == 1)); then
        MISSING=$((MISSING + 1))
    elif ((status)); then
        exit "$status"
    fi
}

presets() {
    if ! ((HEADLESS)) && [[ -z $POWER ]]; then return; fi
    say "presets"
    if ((HEADLESS)); then preset headless; fi
    if [[ -n $POWER ]]; then preset power "$POWER"; fi
}

# As the service's user: what root may open is no proof.
doctor() {
    if attempt runuser -u edgeq -- "$COMMAND" doctor; then return; fi
    say "edgeq is installed, and edgeq doctor found something missing: see above."
    exit 1
}

uninstall() {
    say "edgeq is removed"
    if [[ -e $ROOT$UNIT ]]; then
        run systemctl stop edgeq.service # not `disable --now`, which fails in a chroot: an image may be made there
        run systemctl disable edgeq.service
        remove "$UNIT"
        run systemctl daemon-reload
    fi
    remove "$COMMAND"
    remove "$PREFIX"
    say "Bundles ($STATE), configuration ($CONFIGURATION) and the user edgeq stay."
}

install_all() {
    find_jetpack
    find_tensorrt
    find_language
    say "system"
    packages
    account
    environment
    if ((LANGUAGE)); then
        say "torch and bitsandbytes"
        install_torch
        install_bitsandbytes
    fi
    say "edgeq"
    install_edgeq
    judge_bitsandbytes
    configuration
    unit
    presets
    if ((DOCTOR)); then
        say "check"
        doctor
    fi
}

main() {
    options "$@"
    need_root
    if ((UNINSTALL)); then
        uninstall
        return
    fi
    install_all
    if ((MISSING && DRY_RUN)); then
        say "$MISSING missing: a real run would have stopped there."
    elif ((MISSING)); then
        say "Left for you to do: see above."
    elif ((DRY_RUN)); then
        say "Nothing was changed."
    else
        say "Next: sudo edgeq install BUNDLE --key KEY"
    fi
    return $((MISSING > 0))
}

main "$@"
