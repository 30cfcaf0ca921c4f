#!/usr/bin/env bash
# Every command of a make-believe Jetson. It writes down how it was called and remembers a little, all below STUB_ROOT:
# log, packages (NAME VERSION), users, groups, target, mode, bitsandbytes (what pip installed for it), and one file
# NAME.status to make NAME fail. Kernels of bitsandbytes run, but with a file `l4t` only those of a build made here.
set -euo pipefail
memory=$STUB_ROOT/stub
name=${0##*/}
printf '%s\n' "${BNB_SKIP_CMAKE:+BNB_SKIP_CMAKE=$BNB_SKIP_CMAKE }$name${*:+ $*}" >>"$memory/log"
if [[ -e $memory/$name.status && $1 != -q ]]; then exit "$(<"$memory/$name.status")"; fi

dpkg_query() {
    local package version
    while read -r package version; do
        if [[ $package != "${*: -1}" ]]; then continue; fi
        if [[ $* == *Status* ]]; then version="install ok installed"; fi
        printf '%s' "$version"
        return
    done <"$memory/packages"
    return 1
}

apt_get() {
    local word
    if [[ $1 != install ]]; then return; fi
    for word in "${@:2}"; do
        if [[ $word != --* ]]; then echo "$word 1.0" >>"$memory/packages"; fi
    done
}

python() {
    case "$*" in
        "-m venv "*)
            mkdir -p "$STUB_ROOT${*: -1}/bin"
            ln -s "$STUB_ROOT/usr/bin/python3" "$STUB_ROOT${*: -1}/bin/python"
            ;;
        *" wheel "*)
            while [[ $1 != --wheel-dir ]]; do shift; done
            mkdir -p "$STUB_ROOT$2"
            touch "$STUB_ROOT$2/bitsandbytes-0.50.2-py3-none-linux_aarch64.whl"
            ;;
        *" install "*torch*) touch "$memory/torch" ;;
        *" install "*bitsandbytes*) printf '%s\n' "${*: -1}" >"$memory/bitsandbytes" ;;
        *"import torch"*) [[ -e $memory/torch ]] ;;
        *" list "*) printf '%s\n' bitsandbytes==0.50.2 numpy==1.26.4 torch==2.9.1+l4t torchvision==0.24.1 ;;
    esac
}

runuser() {
    if [[ $* != *nf4_launch || ! -e $memory/l4t ]]; then return; fi
    [[ $(<"$memory/bitsandbytes") == /opt/edgeq/wheels/* ]]
}

systemctl() {
    case "$*" in
        get-default) echo "$(<"$memory/target")" ;;
        "set-default "*) echo "$2" >"$memory/target" ;;
        "cat nvzramconfig.service" | "is-enabled --quiet nvzramconfig.service") [[ -e $memory/nvzramconfig ]] ;;
    esac
}

case $name in
    dpkg-query) dpkg_query "$@" ;;
    apt-get) apt_get "$@" ;;
    python | python3) python "$@" ;;
    runuser) runuser "$@" ;;
    systemctl) systemctl "$@" ;;
    getent) if [[ $1 == passwd ]]; then [[ $(<"$memory/users") == *"$2"* ]]; fi ;;
    id) echo "$(<"$memory/groups")" ;;
    useradd) echo "${*: -1}" >>"$memory/users" ;;
    usermod) printf ' %s' "$3" >>"$memory/groups" ;;
    nvpmodel) if [[ $1 == -q ]]; then printf 'NV Power Mode: ?\n%s\n' "$(<"$memory/mode")"; else echo "$2" >"$memory/mode"; fi ;;
esac
