# How install.sh and presets.sh look at the machine and change it. Sourced by both, never run.
#
# DRY_RUN=1  say every step and take none.
# ROOT=DIR   a scratch root, for trying out: files are read and written below DIR, and a command is looked up in
#            DIR/usr/bin (or below DIR, if it is a path). One that is not there is an error: the machine's own is never run.
# shellcheck shell=bash

DRY_RUN=0
ROOT=""
MISSING=0 # things without which a real run would have stopped; only a dry run counts on
CHANGED=0 # set by place_file and place_link

say() { printf '%s\n' "$*"; }

# step WORD TEXT...: what is done, or would be.
step() {
    local word=$1
    shift
    if ((DRY_RUN)); then word="would $word"; fi
    say "  $word: $*"
}

kept() { say "  keep: $*"; }

# fail WHAT NEXT: an error of the user's, told in two lines.
fail() {
    printf 'error: %s\nnext: %s\n' "$1" "$2" >&2
    exit 2
}

# missing WHAT NEXT: as fail, but a dry run goes on and shows the other steps as well.
missing() {
    if ! ((DRY_RUN)); then fail "$1" "$2"; fi
    say "  missing: $1"
    MISSING=$((MISSING + 1))
}

# shown WORD...: a command as one would type it.
shown() {
    local word line=""
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then line+=" $word"; else line+=" '${word//\'/\'\\\'\'}'"; fi
    done
    printf '%s' "${line# }"
}

# where COMMAND: the file that is run for it.
where() {
    if [[ -z $ROOT ]]; then
        command -v "$1"
    elif [[ $1 == /* ]]; then
        printf '%s' "$ROOT$1"
    else
        printf '%s' "$ROOT/usr/bin/$1"
    fi
}

# look COMMAND...: ask the machine something. It changes nothing, so a dry run does it too; 127 if it cannot be asked.
look() {
    local file
    file=$(where "$1") && [[ -x $file ]] || return 127
    "$file" "${@:2}"
}

SETTING="" # NAME=VALUE, an environment variable of the next command alone: SETTING=... run COMMAND

# attempt COMMAND...: change the machine, or say how. Its exit status is the command's; nobody answers its questions.
attempt() {
    step run "${SETTING:+$SETTING }$(shown "$@")"
    if ((DRY_RUN)); then return; fi
    local file
    if ! file=$(where "$1") || [[ ! -x $file ]]; then fail "$1 is not there" "install it, then run this again"; fi
    env ${SETTING:+"$SETTING"} "$file" "${@:2}" </dev/null
}

# run COMMAND...: the same, where nothing but success will do.
run() { attempt "$@" || fail "$1 ended with status $?" "see what it said above, then run this again: what is done is kept"; }

# place_file MODE SOURCE TARGET: in one step, and only if what is there differs.
place_file() {
    CHANGED=0
    if cmp -s "$2" "$ROOT$3"; then
        kept "$3"
        return
    fi
    CHANGED=1
    step write "$3 (mode $1)"
    if ((DRY_RUN)); then return; fi
    install -D -m "$1" "$2" "$ROOT$3.new"
    mv -f "$ROOT$3.new" "$ROOT$3"
}

# place_link TARGET LINK
place_link() {
    CHANGED=0
    if [[ $(readlink "$ROOT$2" || true) == "$1" ]]; then
        kept "$2"
        return
    fi
    CHANGED=1
    step link "$2 -> $1"
    if ((DRY_RUN)); then return; fi
    mkdir -p "$(dirname "$ROOT$2")"
    ln -sfn "$1" "$ROOT$2"
}

# place_directory MODE OWNER:GROUP PATH
place_directory() {
    if [[ -d $ROOT$3 ]]; then
        kept "$3"
        return
    fi
    step make "$3 (mode $1, $2)"
    if ((DRY_RUN)); then return; fi
    mkdir -p "$ROOT$3"
    chmod "$1" "$ROOT$3"
    if [[ $2 != root:root ]]; then look chown "$2" "$3"; fi
}

# remove PATH: a file, a link or a directory of edgeq's own.
remove() {
    if [[ ! -e $ROOT$1 && ! -L $ROOT$1 ]]; then return; fi
    step remove "$1"
    if ((DRY_RUN)); then return; fi
    rm -rf -- "$ROOT$1"
}

# need_root: everything but a dry run and a scratch root wants it.
need_root() {
    if ((DRY_RUN)) || [[ -n $ROOT ]] || ((EUID == 0)); then return; fi
    fail "this changes the system and needs root" "sudo $0 (or --dry-run to see the steps)"
}

# has_package NAME: is this Debian package installed?
has_package() {
    # shellcheck disable=SC2016  # dpkg's own variable
    [[ $(look dpkg-query --show --showformat='${Status}' "$1" 2>/dev/null || true) == "install ok installed" ]]
}

# package_version NAME: its version, nothing if it is not there.
package_version() {
    # shellcheck disable=SC2016
    if has_package "$1"; then look dpkg-query --show --showformat='${Version}' "$1"; fi
}
