#!/usr/bin/env bash
# Runs in a fresh Debian that has a GIMP, in an account that may not become root: installs what is unpacked in
# FOLDER/package, edits FOLDER/in.png in GIMP, uninstalls, and says what is left. Usage: tarball.sh FOLDER
set -euo pipefail

folder=$1
export HOME=$folder/home
# What GIMP makes for itself is not the installer's.
files() {
    find "$HOME" \( -path "$HOME/.config/GIMP/*/*" -o -name gegl-0.4 -o -name babl -o -name gimp \) -prune -o -print |
        sort
}
series=3.0
if command -v gimp-console-2.10 >/dev/null; then series=2.10; fi
mkdir -p "$HOME/.config/GIMP" "$HOME"/.local/{bin,share,state} "$HOME/.cache"
cp -r "$folder/profile" "$HOME/.config/GIMP/$series"
files >"$folder/before"
# A C compiler and Rust are not there, and no packages may be installed.
for program in cc cargo; do if command -v "$program"; then exit 1; fi; done
"$folder/package/install.sh" --no-packages
"$HOME/.local/bin/imagic-edit" --version
"$folder/edit-in-gimp" "$folder/in.png" "$folder/out.png"
"$HOME/.local/bin/imagic-edit" doctor
"$folder/package/install.sh" --uninstall --purge
files >"$folder/after"
diff "$folder/before" "$folder/after"
[[ ! -e $HOME/.config/GIMP/$series/plug-ins/imagic-edit ]]
echo "nothing is left"
