#!/usr/bin/env bash
# Runs as root in a fresh Debian that has a GIMP: installs the package, edits in GIMP, removes the package, and says
# what is left. FOLDER holds the package, a picture in.png, a profile of this GIMP, and these scripts.
# Usage: deb.sh FOLDER
set -euo pipefail

folder=$1
# What is there, without dpkg's and apt's own books and what the folder gets.
files() {
    find / -xdev \( -path /proc -o -path /dev -o -path /tmp -o -path "$folder" -o -path /var/lib/dpkg -o \
        -path /var/lib/apt -o -path /var/cache -o -path /var/log \) -prune -o -print | sort
}
export HOME=$folder/home DEBIAN_FRONTEND=noninteractive
mkdir "$HOME"
files >"$folder/before"
apt-get -qq install -y "$folder"/imagic-edit_*.deb
imagic-edit --version
export GIMP2_DIRECTORY=$folder/profile GIMP3_DIRECTORY=$folder/profile
"$folder/edit-in-gimp" "$folder/in.png" "$folder/out.png"
imagic-edit doctor
apt-get -qq remove -y imagic-edit
files >"$folder/after"
diff "$folder/before" "$folder/after"
echo "nothing is left"
