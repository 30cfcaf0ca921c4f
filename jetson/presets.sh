#!/usr/bin/env bash
# Memory and power presets for a Jetson that has nobody at its screen.
#
#   presets.sh [--dry-run] [--root DIR] headless      no desktop from the next start on; compressed swap
#   presets.sh [--dry-run] [--root DIR] desktop       the desktop again
#   presets.sh [--dry-run] [--root DIR] power NAME    a power mode, by its name
#   presets.sh [--root DIR] modes                     the power modes that this board has
#
# --dry-run says every step and takes none. --root is for trying out: see machine.sh.
# Exit status: 0 done, 1 the power mode did not change or is not known, 2 bad input or not a Jetson.
set -euo pipefail
shopt -s inherit_errexit

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=machine.sh
source "$HERE/machine.sh"

# Modes have other numbers on every board and JetPack: this file says which.
MODES=/etc/nvpmodel.conf

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

# set_target UNIT: what systemd starts from the next start on. A desktop that is running is left alone.
set_target() {
    if [[ $(look systemctl get-default || true) == "$1" ]]; then
        kept "systemd starts $1"
        return
    fi
    run systemctl set-default "$1"
    say "  after the next start: $1"
}

# Swap in compressed memory gives back Python's idle pages. It does nothing for the GPU's: those never go to swap.
zram() {
    if look systemctl cat nvzramconfig.service >/dev/null 2>&1; then
        if look systemctl is-enabled --quiet nvzramconfig.service; then
            kept "nvzramconfig.service, L4T's own compressed swap"
        else
            run systemctl enable nvzramconfig.service
            run systemctl start nvzramconfig.service # not `enable --now`, which fails in a chroot
        fi
        return
    fi
    if ! has_package systemd-zram-generator; then
        run apt-get install --yes --no-install-recommends --no-upgrade systemd-zram-generator
    fi
    if [[ -e $ROOT/etc/systemd/zram-generator.conf ]]; then
        kept "/etc/systemd/zram-generator.conf, which was there before"
        return
    fi
    place_file 0644 "$HERE/zram-generator.conf" /etc/systemd/zram-generator.conf
    run systemctl daemon-reload
    run systemctl start systemd-zram-setup@zram0.service
}

# need_modes: only a Jetson has them.
need_modes() {
    if [[ -r $ROOT$MODES ]]; then return; fi
    missing "$MODES is not there, so the power modes are not known" "run this on the Jetson itself"
    exit 1
}

# "ID NAME" for each power mode of this board.
modes() {
    sed -n 's/^<[[:space:]]*POWER_MODEL[[:space:]]\{1,\}ID=\([0-9]\{1,\}\)[[:space:]]\{1,\}NAME=\([^[:space:]>]\{1,\}\).*/\1 \2/p' \
        "$ROOT$MODES"
}

# mode_number NAME: in whatever case it is written.
mode_number() { modes | awk -v name="$1" 'tolower($2) == tolower(name) && !n++ { print $1 }'; }

# The number of the mode that the board is in: nvpmodel says its name, then its number.
mode_now() { look nvpmodel -q 2>/dev/null | tail -n 1; }

power() {
    local number known
    need_modes
    known=$(modes)
    number=$(mode_number "$1")
    if [[ -z $number ]]; then
        fail "this board has no power mode $1" "one of: $(cut -d ' ' -f 2 <<<"$known" | paste -sd ' ')"
    fi
    if [[ $(mode_now || true) == "$number" ]]; then
        kept "power mode $1 (number $number here)"
        return
    fi
    attempt nvpmodel -m "$number" || true # what counts is the mode that it is in afterwards
    if ((DRY_RUN)) || [[ $(mode_now || true) == "$number" ]]; then return; fi
    # Some changes need a restart, and nvpmodel asks for it; that is for a person to answer.
    say "  the board is still in another mode; some changes need a restart: sudo nvpmodel -m $number"
    return 1
}

main() {
    local what=() known=0
    while (($#)); do
        case $1 in
            --dry-run) DRY_RUN=1 ;;
            --root)
                ROOT=$(realpath -e "${2-}")
                shift
                ;;
            -h | --help)
                usage
                return
                ;;
            -*) fail "$1 is not an option" "$0 --help" ;;
            *) what+=("$1") ;;
        esac
        shift
    done
    case ${what[*]:-} in headless | desktop | modes | "power "*) known=1 ;; esac
    if ! ((known)); then fail "say one of: headless, desktop, modes, power NAME" "$0 --help"; fi
    if [[ ${what[0]} != modes ]]; then need_root; fi
    case ${what[0]} in
        headless)
            set_target multi-user.target
            zram
            ;;
        desktop) set_target graphical.target ;;
        modes)
            need_modes
            modes
            ;;
        power) power "${what[1]}" ;;
    esac
}

main "$@"
