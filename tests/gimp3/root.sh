#!/usr/bin/env bash
# Makes a Debian 13 root with GIMP 3 in FOLDER, for machines whose own GIMP is older; does nothing where it is there
# already. Takes about 4 minutes and 0.5 GB. Needs root and mmdebstrap; packages come from where this machine's apt gets
# its own. SUITE=sid makes one of what Debian is working on instead, with a newer GIMP; SUITE=bookworm a Debian 12 with
# GIMP 2.10.
# Usage: tests/gimp3/root.sh FOLDER [PACKAGE...]    (for `cargo build --features bindgen` add libgimp-3.0-dev libc6-dev)
set -euo pipefail

root=${1:?usage: tests/gimp3/root.sh FOLDER [PACKAGE...]}
shift
suite=${SUITE:-trixie}
# The console of its GIMP, what names that one's profile, and what only GIMP 3 knows.
console=gimp-console-3 variable=GIMP3_DIRECTORY welcome='(show-welcome-dialog no)'
if [[ $suite = bookworm ]]; then console=gimp-console-2.10 variable=GIMP2_DIRECTORY welcome=''; fi
packages=$(printf '%s,' gimp dbus fonts-dejavu-core "$@")
packages=${packages%,}
# Lies in a root that is complete and says with what.
stamp=etc/imagic-edit-test-root
if [[ -f $root/$stamp && $(<"$root/$stamp") = "$packages" ]]; then exit 0; fi

# The archive of the system's own release also holds Debian 13; the security archive has another layout.
# apt itself expands these.
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^Debian //p' | head -n1)
[[ -n $mirror ]] || {
    echo "root.sh: apt on this machine knows no Debian archive" >&2
    exit 1
}

mkdir -p "$(dirname "$root")"
rm -rf "$root" "$root.new"
# In a mount namespace of its own: what gets mounted in the root is gone when this ends, however it ends.
unshare --mount --pid --fork --kill-child mmdebstrap --quiet --mode=root --variant=minbase \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/gimp/3.0/help/*' \
    --include="$packages" "$suite" "$root.new" "$mirror"
# A profile in which GIMP has looked at all of its own plug-ins: tests start from a copy of it. Nothing asks anything.
mkdir "$root.new/imagic-profile"
printf '%s\n' '(color-profile-policy keep)' '(check-updates no)' "$welcome" >"$root.new/imagic-profile/gimprc"
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
"$(dirname "${BASH_SOURCE[0]}")/in-root" "$root.new" "$home" \
    /usr/bin/env -i PATH=/usr/bin:/bin HOME="$home" LC_ALL=C.UTF-8 "$variable=/imagic-profile" \
    "$console" -i -s --batch-interpreter plug-in-script-fu-eval -b '(gimp-quit 0)' >/dev/null 2>&1 || true
[[ -f $root.new/imagic-profile/pluginrc ]] || {
    echo "root.sh: GIMP does not start in $root.new" >&2
    exit 1
}
printf '%s' "$packages" >"$root.new/$stamp"
mv "$root.new" "$root"
