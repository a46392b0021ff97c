#!/usr/bin/env bash
# Makes a folder with what `cargo build --features cuda` needs of NVIDIA's CUDA toolkit, out of wheels from the Python
# package index. No GPU and no driver is needed, and nothing is installed outside of the folder. Prints the command to
# build with.
# Usage: installer/cuda-toolkit.sh [FOLDER]   (default: target/cuda-toolkit; 105 MB are downloaded, 271 MB on disk)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(realpath -m "${1:-target/cuda-toolkit}")

# The compiler's own parts and the headers; a newer compiler than the driver of a user's machine makes PTX that it
# cannot read.
packages=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
)
# What cudarc asks the linker for. The library that is built refers to none of them (src/engine/device/symbols.rs
# loads what it needs when it runs), so that empty ones do, and 600 MB of downloads are saved.
stubs=(cuda cudart cublas cublasLt curand nvrtc)

if [[ $(uname -sm) != "Linux x86_64" ]]; then
    echo "cuda-toolkit.sh: this machine is $(uname -sm); the CUDA build is for Linux x86_64" >&2
    exit 1
fi
for program in python3 cc c++; do
    if ! command -v "$program" >/dev/null; then
        echo "cuda-toolkit.sh: $program is missing; sudo apt install python3-pip gcc g++" >&2
        exit 1
    fi
done
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "cuda-toolkit.sh: Python's pip is missing; sudo apt install python3-pip" >&2
    exit 1
fi

if [[ $(cat "$folder/packages.txt" 2>/dev/null) != "${packages[*]}" ]]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile \
        --target "$folder/wheels" "${packages[@]}"
    for part in bin include nvvm; do
        ln -s "wheels/nvidia/cu13/$part" "$folder/$part"
    done
    chmod +x "$folder"/bin/* "$folder"/nvvm/bin/*
    mkdir "$folder/lib64"
    ln -s lib64 "$folder/lib"
    for stub in "${stubs[@]}"; do
        cc -shared -o "$folder/lib64/lib$stub.so" -x c /dev/null
    done
    # candle-kernels compiles matrix products of quantized numbers for half an hour, and nothing here calls them: an
    # empty file is compiled in the place of each. Set NVCC to bin/nvcc itself to compile them all the same.
    : >"$folder/empty.cu"
    cat >"$folder/nvcc" <<'WRAPPER'
#!/usr/bin/env bash
# nvcc, but for the kernels that Imagic Edit does not use; made by installer/cuda-toolkit.sh.
folder=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
arguments=()
for argument in "$@"; do
    case $argument in
    */moe/*.cu | */mmq_gguf/*.cu | */mmvq_gguf.cu) arguments+=("$folder/empty.cu") ;;
    *) arguments+=("$argument") ;;
    esac
done
exec "$folder/bin/nvcc" "${arguments[@]}"
WRAPPER
    chmod +x "$folder/nvcc"
    echo "${packages[*]}" >"$folder/packages.txt"
fi

cat >"$folder/environment.sh" <<EOF2
# To be sourced before cargo; made by installer/cuda-toolkit.sh.
export CUDA_HOME='$folder' CUDA_PATH='$folder' NVCC='$folder/nvcc' CUDARC_CUDA_VERSION=13000 CUDA_COMPUTE_CAP=80
export LIBRARY_PATH='$folder/lib64'\${LIBRARY_PATH:+:\$LIBRARY_PATH}
EOF2
version=$("$folder/bin/nvcc" --version | sed -n 's/.*release \([^,]*\),.*/CUDA \1/p')
echo "cuda-toolkit.sh: $version in $folder, $(du -smL "$folder" | cut -f1) MB"
echo "build with:  (. $folder/environment.sh && cargo build --release --features cuda)"
