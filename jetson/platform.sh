# Which JetPack, and whose TensorRT. Sourced by install.sh, never run.
# shellcheck shell=bash

release_in_file() {
    sed -n 's/^# R\([0-9]\{1,\}\) (release), REVISION: \([0-9.]\{1,\}\).*/\1.\2/p' "$ROOT/etc/nv_tegra_release" 2>/dev/null
}

# find_jetpack: from /etc/nv_tegra_release and from dpkg, which must not contradict each other.
find_jetpack() {
    local file package release found
    file=$(release_in_file || true)
    package=$(package_version nvidia-l4t-core || true)
    package=${package%%-*}
    release=${file:-$package}
    if [[ -n $file && -n $package && ${file%%.*} != "${package%%.*}" ]]; then
        fail "/etc/nv_tegra_release says L4T $file, the package nvidia-l4t-core $package" "finish the upgrade, or flash"
    fi
    found=${JETPACK_OF_RELEASE[${release%%.*}.]:-}
    if [[ -n $JETPACK && -n $found && $JETPACK != "$found" ]]; then
        fail "--jetpack $JETPACK, but L4T $release is JetPack $found" "leave --jetpack away"
    fi
    JETPACK=${JETPACK:-$found}
    if [[ -z $release && -z $JETPACK ]]; then
        fail "this is not a Jetson: no /etc/nv_tegra_release, no package nvidia-l4t-core" \
            "run it on the Jetson, or name --jetpack 6 or 7"
    elif [[ -z $JETPACK ]]; then
        fail "L4T $release is neither JetPack 6 (L4T 36) nor JetPack 7.2 (L4T 39)" \
            "flash JetPack 6 or 7.2, or name the nearest with --jetpack"
    fi
    say "JetPack $JETPACK (L4T ${release:-not found; as told})"
}

# find_tensorrt: the system's is used as it is. pip's would be another version, built for servers.
find_tensorrt() {
    local version
    version=$(package_version python3-libnvinfer || true)
    if [[ -z $version ]]; then
        missing "TensorRT's Python package (python3-libnvinfer) is not installed" "sudo apt-get install nvidia-jetpack"
    elif ((${version%%.*} < 10)); then
        missing "TensorRT $version is too old (JetPack 6.0 and before): edgeq needs 10.3" "upgrade to JetPack 6.1 or later"
    else
        say "TensorRT $version, the system's, kept as it is"
    fi
}
