#!/usr/bin/env bash
# What is installed beside program and library; read by install.sh and package, which say where it goes. Each function
# prints pairs, every part of which ends with NUL: a file, and its path in the folder that it is for.
: "${root:?the folder of the sources}"

# For Krita's folder of resources.
krita_files() {
    local file
    while IFS= read -r -d '' file; do
        printf '%s\0%s\0' "$root/plugin-manifest/krita/$file" "$file"
    done < <(cd "$root/plugin-manifest/krita" && find actions pykrita -type f -not -name '*.pyc' -print0 | sort -z)
    for file in "$root"/plugin-manifest/locale/*.json; do
        printf '%s\0%s\0' "$file" "pykrita/imagic/locale/${file##*/}"
    done
}

# For the folder `models`: those that come with the plug-in, and the page that Help opens.
model_files() {
    local model file
    printf '%s\0%s\0' "$root/models/help.html" help.html
    for model in "$root"/models/*/unet; do
        model=$(dirname "$model")
        while IFS= read -r -d '' file; do
            printf '%s\0%s\0' "$model/$file" "$(basename "$model")/$file"
        done < <(cd "$model" && find . -type f -printf '%P\0' | sort -z)
    done
}
