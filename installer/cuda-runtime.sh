#!/usr/bin/env bash
# Fetches the one library of CUDA that the engine needs on a GPU beside NVIDIA's driver: cuBLAS, from the Python package
# index, into the folder `cuda` of the installed copy. Not needed where the system's loader finds libcublas.so.13.
# Usage: installer/cuda-runtime.sh [FOLDER]   (420 MB are downloaded, 600 MB on disk)
set -euo pipefail
folder=${1:-${XDG_DATA_HOME:-$HOME/.local/share}/imagic-edit/cuda}
# Of the CUDA that the driver must know at least; newer drivers run it too.
package=nvidia-cublas==13.1.0.3

if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "cuda-runtime.sh: Python's pip is missing; sudo apt install python3-pip" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile \
    --target "$work" "$package"
mkdir -p "$folder"
mv "$work"/nvidia/cu13/lib/libcublas.so.13 "$work"/nvidia/cu13/lib/libcublasLt.so.13 "$folder"
echo "cuda-runtime.sh: cuBLAS in $folder, $(du -sm "$folder" | cut -f1) MB"
echo "see what runs where with: imagic-edit doctor"
