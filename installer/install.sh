#!/usr/bin/env bash
# Installs Imagic Edit for this account: builds it, unless this is a package with a program in it, then puts it where
# the editors and the shell find it.
set -euo pipefail
export LC_ALL=C.UTF-8

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
# shellcheck source=installer/files.sh
. "$root/installer/files.sh"
# Relative ones do not count, as everywhere: they would mean another folder for every program.
for variable in XDG_DATA_HOME XDG_CONFIG_HOME XDG_CACHE_HOME GIMP2_DIRECTORY GIMP3_DIRECTORY; do
    if [[ ${!variable-} != /* ]]; then unset "$variable"; fi
done
data=${XDG_DATA_HOME:-$HOME/.local/share}/imagic-edit
config=${XDG_CONFIG_HOME:-$HOME/.config}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/imagic-edit
# The profile folders of each editor, the ordinary one first; flatpak and snap keep theirs in places of their own.
gimp2_profiles=("${GIMP2_DIRECTORY:-$config/GIMP/2.10}" "$HOME/.var/app/org.gimp.GIMP/config/GIMP/2.10"
    "$HOME/snap/gimp/current/.config/GIMP/2.10")
gimp3_profiles=("${GIMP3_DIRECTORY:-$config/GIMP/3.0}" "$config/GIMP/3.2" "$HOME/.var/app/org.gimp.GIMP/config/GIMP/3.0"
    "$HOME/.var/app/org.gimp.GIMP/config/GIMP/3.2" "$HOME/snap/gimp/current/.config/GIMP/3.0"
    "$HOME/snap/gimp/current/.config/GIMP/3.2")
link=$HOME/.local/bin/imagic-edit
# Krita's folders and settings: of this account, and of the flatpak.
krita_data=("${XDG_DATA_HOME:-$HOME/.local/share}/krita" "$HOME/.var/app/org.kde.krita/data/krita")
krita_settings=("$config/kritarc" "$HOME/.var/app/org.kde.krita/config/kritarc")
# Every file and folder that an installation made, so that uninstalling removes these and nothing else.
manifest=$data/installed

help() {
    cat <<END
usage: install.sh [--demo] [--binary FOLDER | --cuda] [--no-packages] [EDITOR...]
       install.sh --uninstall [--purge]

Installs Imagic Edit for this account, for the named editors alone (gimp2, gimp3,
krita) or for all that are found; where there is none, GIMP is installed:
  $data
      program, library and the built-in model
  plug-ins/imagic-edit in the profiles of GIMP 2.10 and GIMP 3, as
  ${gimp2_profiles[0]}
  ${gimp3_profiles[0]}
      program and library: Filters > Imagic Edit
  ${krita_data[0]}/pykrita/imagic
      package for Krita, if it is there: Filter > Imagic Edit
  $link
      the command 'imagic-edit'
In a package the program is there already; from the sources it is built, which takes
a C compiler and Rust. On Debian 12 and its relatives what is missing is installed:
packages with apt (through sudo), Rust with rustup. Running it again brings everything
up to date.

  --demo         afterwards edit a sample picture in GIMP, without a window, and
                 leave the results in $root/demo
  --binary FOLDER
                 build nothing: take program and library from there
  --cuda         build it for NVIDIA graphics cards too (x86-64; docs/CUDA.md), with
                 700 MB of NVIDIA's libraries from the Python package index
  --no-packages  install no packages: stop where one is missing
  --uninstall    remove what was installed; models that you added and tuned
                 models (in $cache) are kept
  --purge        with --uninstall: remove tuned models, settings and log too
END
}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

demo=no cuda=no packages=yes uninstall=no purge=no binary='' editors=()
if [[ -d $root/bin ]]; then binary=$root/bin; fi
while [[ $# -gt 0 ]]; do
    case $1 in
        --demo) demo=yes ;;
        --binary)
            binary=${2-}
            if [[ ! -f $binary/imagic-edit || ! -f $binary/libimagic_edit.so ]]; then
                fail "--binary needs the folder with imagic-edit and libimagic_edit.so; '$binary' has not both"
            fi
            shift
            ;;
        --cuda) cuda=yes ;;
        --no-packages) packages=no ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        --help | -h)
            help
            exit 0
            ;;
        gimp2 | gimp3 | krita) editors+=("$1") ;;
        *)
            printf 'install.sh: there is no option %s\n' "$1" >&2
            help >&2
            exit 2
            ;;
    esac
    shift
done
if [[ $purge = yes && $uninstall = no ]]; then
    printf 'install.sh: --purge goes with --uninstall\n' >&2
    exit 2
fi
if [[ $cuda = yes && -n $binary ]]; then fail "--cuda builds from the sources; this program is built already"; fi
if [[ $EUID = 0 && -n ${SUDO_USER-} ]]; then
    fail "run it without sudo: it installs for your own account and asks for sudo where that is needed"
fi

# Files first, then the folders that are empty after that, innermost first.
remove_installed() {
    local path
    while IFS= read -r path; do
        if [[ -L $path || -f $path ]]; then rm -f -- "$path"; fi
    done <"$manifest"
    while IFS= read -r path; do
        if [[ -d $path && ! -L $path ]]; then rmdir --ignore-fail-on-non-empty -- "$path"; fi
    done < <(sort -r "$manifest")
}

# Whether the Krita with this resource folder is there; the flatpak is on no PATH.
krita_is_there() {
    case $1 in
        */.var/app/*) [[ -d $HOME/.var/app/org.kde.krita ]] ;;
        *) have krita || [[ -d $1 ]] ;;
    esac
}

# Krita starts only packages that its settings name. What the user has chosen stays: on a second run there is a line
# already.
enable_in_krita() {
    local settings=$1
    if grep -qs '^enable_imagic=' "$settings"; then return; fi
    make_folder "$(dirname "$settings")"
    touch "$settings"
    awk '{ print }
         $0 == "[python]" && !done { print "enable_imagic=true"; done = 1 }
         END { if (!done) print "\n[python]\nenable_imagic=true" }' "$settings" >"$settings.new"
    # Written into the old file, which may be a link.
    cat "$settings.new" >"$settings"
    rm -f -- "$settings.new"
}

# Takes the line back, and its section and file if nothing else is in them.
disable_in_krita() {
    local settings=$1
    if ! grep -qs '^enable_imagic=' "$settings"; then return; fi
    awk '/^enable_imagic=/ { next }
         $0 == "" { blank = blank "\n"; next }
         $0 == "[python]" { held = blank $0 "\n"; blank = ""; next }
         { if ($0 !~ /^\[/) printf "%s", held
           held = ""
           printf "%s", blank
           blank = ""
           print }' "$settings" >"$settings.new"
    cat "$settings.new" >"$settings"
    rm -f -- "$settings.new"
    if ! grep -q '[^[:space:]]' "$settings"; then rm -f -- "$settings"; fi
}

if [[ $uninstall = yes ]]; then
    for index in "${!krita_data[@]}"; do
        disable_in_krita "${krita_settings[index]}"
        # What Python leaves beside the package.
        rm -rf -- "${krita_data[index]}/pykrita/imagic/__pycache__"
    done
    if [[ -f $manifest ]]; then
        remove_installed
        rm -f -- "$manifest"
        rmdir --ignore-fail-on-non-empty -- "$data"
        say "Imagic Edit is removed."
        if [[ -d $data ]]; then say "Kept: $data, with files that the installer did not make."; fi
    else
        say "Imagic Edit is not installed: there is no $manifest."
    fi
    if [[ $purge = yes ]]; then
        rm -rf -- "$cache" "$config/imagic-edit" "${XDG_STATE_HOME:-$HOME/.local/state}/imagic-edit"
        # What flatpak and snap gave the editors as theirs.
        for folder in "$HOME/.var/app"/{org.gimp.GIMP,org.kde.krita}; do
            rm -rf -- "$folder"/{cache,config,.local/state}/imagic-edit
        done
        rm -rf -- "$HOME/snap/gimp/current"/{.cache,.config,.local/state}/imagic-edit
        say "Tuned models, settings and log are removed."
    elif [[ -d $cache ]]; then
        say "Kept: tuned models in $cache ($(du -sh "$cache" | cut -f1)); --purge removes them."
    fi
    exit 0
fi

as_root() {
    if [[ $EUID = 0 ]]; then "$@"; elif have sudo; then sudo "$@"; else fail "sudo is missing; as root run: $*"; fi
}

# need PROGRAM PACKAGE...: installs the packages unless the program is there.
need() {
    local program=$1
    shift
    if have "$program"; then return; fi
    if [[ $packages = no ]]; then fail "$program is missing; install it ($*) and start again"; fi
    if ! have apt-get; then
        fail "$program is missing, and only Debian and its relatives are known here; install it ($*) and start again"
    fi
    say "Installing $* ..."
    if [[ -z ${packages_are_fresh-} ]]; then
        as_root apt-get -qq update
        packages_are_fresh=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
    have "$program" || fail "$* is installed but there is no $program; this system is too new or too old for it"
}

# profiles EDITOR: its profile folders that are there.
profiles() {
    local -n folders=$1_profiles
    local folder
    for folder in "${folders[@]}"; do if [[ -d $folder ]]; then printf '%s\n' "$folder"; fi; done
}
# found EDITOR: whether it is on this machine.
found() {
    local program
    for program in "${@:2}"; do if have "$program"; then return; fi; done
    [[ -n $(profiles "$1") ]]
}
found_gimp2() { found gimp2 gimp-2.10 gimp-console-2.10; }
found_gimp3() { found gimp3 gimp-3 gimp-3.0 gimp-3.2 gimp-console-3 gimp-console-3.0; }
found_krita() {
    local folder
    for folder in "${krita_data[@]}"; do if krita_is_there "$folder"; then return; fi; done
    return 1
}

if [[ -n $binary ]]; then
    # Says itself what it lacks: a newer glibc, or the library beside it.
    "$binary/imagic-edit" --version >/dev/null || fail "this program does not run here; it needs glibc 2.31 and x86-64"
else
    need cc gcc libc6-dev
fi
if [[ ${#editors[@]} = 0 ]]; then
    for editor in gimp2 gimp3 krita; do if "found_$editor"; then editors+=("$editor"); fi; done
fi
if [[ ${#editors[@]} = 0 ]]; then
    need gimp gimp
    for editor in gimp2 gimp3 krita; do if "found_$editor"; then editors+=("$editor"); fi; done
    [[ ${#editors[@]} -gt 0 ]] || fail "the GIMP of this system is neither 2.10 nor 3; see README.md"
fi
for editor in "${editors[@]}"; do
    "found_$editor" ||
        fail "there is no ${editor/gimp/GIMP } for this account; install it, start it once, and start again"
done

# Rust: what Cargo.toml asks for is newer than what Debian 12 has.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
rust_found() { cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p'; }
rust_is_new_enough() {
    local found
    found=$(rust_found)
    [[ -n $found && $(printf '%s\n' "$rust_wanted" "$found" | sort -V | head -n1) = "$rust_wanted" ]]
}
need_rust() {
    rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    if rust_is_new_enough; then return; fi
    if have rustup; then
        say "Rust $rust_wanted is needed; updating with rustup ..."
        rustup toolchain install stable --profile minimal --no-self-update
        export RUSTUP_TOOLCHAIN=stable
    else
        say "Rust $rust_wanted or newer is needed, found: $(rust_found || true) (none if empty)."
        say "Installing it with rustup (https://rustup.rs) to ${CARGO_HOME:-$HOME/.cargo} ..."
        need curl curl ca-certificates
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal --no-modify-path
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    rust_is_new_enough ||
        fail "Rust is still $(rust_found); install $rust_wanted or newer from https://rustup.rs and start again"
}

if [[ -z $binary ]]; then
    need_rust
    say "Building (some minutes the first time) ..."
    if [[ $cuda = yes ]]; then
        "$root/installer/cuda-toolkit.sh"
        # shellcheck source=/dev/null
        (cd "$root" && . target/cuda-toolkit/environment.sh && cargo build --release --locked --features cuda)
    else
        (cd "$root" && cargo build --release --locked)
    fi
    binary=${CARGO_TARGET_DIR:-$root/target}/release
fi

installed=()
# put MODE FILE TARGET: a new file in place of the old one, which a running GIMP may still use.
put() {
    local folder
    folder=$(dirname "$3")
    make_folder "$folder"
    install -m "$1" "$2" "$3.new"
    mv -f "$3.new" "$3"
    installed+=("$3")
}
put_link() {
    make_folder "$(dirname "$2")"
    ln -sfn "$1" "$2"
    installed+=("$2")
}
make_folder() {
    if [[ ! -d $1 ]]; then
        make_folder "$(dirname "$1")"
        mkdir "$1"
        installed+=("$1")
    fi
}

# Kept up to date when something fails in between, so that uninstalling still finds everything.
record() {
    {
        if [[ -f $manifest ]]; then cat "$manifest"; fi
        printf '%s\n' "${installed[@]}"
    } | sort -u >"$manifest.new"
    mv "$manifest.new" "$manifest"
}
make_folder "$data"
trap record EXIT

put 0644 "$binary/libimagic_edit.so" "$data/libimagic_edit.so"
put 0755 "$binary/imagic-edit" "$data/imagic-edit"
put 0644 "$root/installer/THIRD-PARTY.txt" "$data/THIRD-PARTY.txt"
if [[ $cuda = yes ]]; then
    make_folder "$data/cuda"
    [[ -f $data/cuda/libcublas.so.13 ]] || "$root/installer/cuda-runtime.sh" "$data/cuda"
    installed+=("$data/cuda/libcublas.so.13" "$data/cuda/libcublasLt.so.13")
fi
# put_models FOLDER: the models that come with the plug-in.
put_models() {
    local file path
    while IFS= read -r -d '' file && IFS= read -r -d '' path; do put 0644 "$file" "$1/$path"; done < <(model_files)
}
put_models "$data/models"
# into_gimp EDITOR PROGRAM...: the plug-in goes into each profile of this GIMP.
into_gimp() {
    local editor=$1 program='' folder
    shift
    for program in "$@" ''; do if have "$program"; then break; fi; done
    if [[ -n $program ]] && ! profiles "$editor" | grep -v -e "^$HOME/\.var/" -e "^$HOME/snap/" >/dev/null; then
        # A folder of ours in its place would keep GIMP from making its profile on the first start.
        say "Starting $program once, so that it makes its profile ..."
        "$program" -i -d -f -s --batch-interpreter plug-in-script-fu-eval -b '(gimp-quit 0)' >/dev/null 2>&1 ||
            fail "$program does not start"
    fi
    while IFS= read -r folder; do
        put 0644 "$binary/libimagic_edit.so" "$folder/plug-ins/imagic-edit/libimagic_edit.so"
        # GIMP looks again at a plug-in whose program is newer than its list; so the program comes last.
        put 0755 "$binary/imagic-edit" "$folder/plug-ins/imagic-edit/imagic-edit"
        # A GIMP from flatpak or snap does not see the account's own data folder, or looks elsewhere for its own.
        case $folder in
            "$HOME/.var/"* | "$HOME/snap/"*) put_models "$folder/plug-ins/imagic-edit/models" ;;
            *)
                if [[ -d $HOME/.var/app/org.gimp.GIMP ]]; then
                    put_link "$data/models" "$folder/plug-ins/imagic-edit/models"
                fi
                ;;
        esac
        places+=("$folder/plug-ins/imagic-edit")
    done < <(profiles "$editor")
}
places=()
for editor in "${editors[@]}"; do
    case $editor in
        gimp2) into_gimp gimp2 gimp-console-2.10 ;;
        gimp3) into_gimp gimp3 gimp-console-3.0 gimp-console-3.2 gimp-console-3 ;;
    esac
done
in_krita=()
for index in "${!krita_data[@]}"; do
    folder=${krita_data[index]}
    if [[ " ${editors[*]} " != *" krita "* ]] || ! krita_is_there "$folder"; then continue; fi
    while IFS= read -r -d '' file && IFS= read -r -d '' path; do put 0644 "$file" "$folder/$path"; done < <(krita_files)
    case $folder in
        "$HOME/.var/"*)
            # Inside of the flatpak there is nothing to link to.
            put 0644 "$binary/libimagic_edit.so" "$folder/pykrita/imagic/libimagic_edit.so"
            put 0755 "$binary/imagic-edit" "$folder/pykrita/imagic/imagic-edit"
            put_models "$folder/pykrita/imagic/models"
            ;;
        *) put_link "$data/imagic-edit" "$folder/pykrita/imagic/imagic-edit" ;;
    esac
    enable_in_krita "${krita_settings[index]}"
    in_krita+=("$folder/pykrita/imagic")
done
if [[ -e $link && ! -L $link ]]; then
    say "$link is another program and is left alone; start $data/imagic-edit instead."
else
    put_link "$data/imagic-edit" "$link"
fi

# What an older version installed and this one does not; its folders go when uninstalling.
if [[ -f $manifest ]]; then
    while IFS= read -r path; do
        if [[ -d $path && ! -L $path ]]; then
            installed+=("$path")
        else
            rm -f -- "$path"
        fi
    done < <(comm -23 "$manifest" <(printf '%s\n' "${installed[@]}" | sort))
fi
rm -f -- "$manifest"
record
trap - EXIT

say "$("$data/imagic-edit" --version) is installed:"
for place in "${places[@]}"; do say "  GIMP           $place (start GIMP again: Filters > Imagic Edit)"; done
for folder in "${in_krita[@]}"; do say "  Krita          $folder (start Krita again: Filter > Imagic Edit)"; done
say "  command line   $link"
models=$(find "$data/models" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort | tr '\n' ' ')
say "  models         ${models}in $data/models"
case :$PATH: in
    *:"$(dirname "$link")":*) ;;
    *) say "  note: $(dirname "$link") is not in PATH yet; log in again or call $link" ;;
esac

if [[ $demo = yes ]] && have gimp-console-2.10; then
    "$root/installer/demo.sh" "$data/imagic-edit"
elif [[ $demo = yes ]]; then
    say "The demo runs in GIMP 2.10, which is not here; in GIMP 3 open $root/models/samples/car-on-beach.png."
fi
