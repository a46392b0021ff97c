//! The GPU's kernels as far as a machine without a GPU can check them, and that the engine starts there; `src/engine/ops/gpu/tests.rs`
//! runs the kernels on the processor.

use imagic_edit::engine::device::{Precision, Processor};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What installer/cuda-toolkit.sh makes.
fn toolkit() -> Option<PathBuf> {
    let folder =
        std::env::var_os("CUDA_HOME").map_or_else(|| Path::new(ROOT).join("target/cuda-toolkit"), PathBuf::from);
    Some(folder).filter(|folder| folder.join("bin/ptxas").is_file())
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn kernels_assemble_for_every_kind_of_card_without_spilling() {
    let Some(toolkit) = toolkit() else {
        println!("skipped: there is no CUDA toolkit; installer/cuda-toolkit.sh makes one in target/cuda-toolkit");
        return;
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (ptx, cubin) = (folder.join("kernels.ptx"), folder.join("kernels.cubin"));
    let source = Path::new(ROOT).join("src/engine/ops/gpu/kernels.cu");
    // As build.rs does.
    let mut compile = Command::new(toolkit.join("bin/nvcc"));
    run(compile.args(["-ptx", "-std=c++17", "-O3", "--gpu-architecture", "compute_80", "-o"]).arg(&ptx).arg(&source));
    let text = std::fs::read_to_string(&source).expect("the kernels");
    let kernels = text.lines().filter(|line| line.starts_with("KERNEL ")).count();
    for architecture in ["sm_80", "sm_90"] {
        let mut assemble = Command::new(toolkit.join("bin/ptxas"));
        let output = run(assemble.args(["-v", "-arch", architecture, "-o"]).arg(&cubin).arg(&ptx));
        let said = String::from_utf8_lossy(&output.stderr);
        let spilling = said.lines().filter(|line| line.contains("spill"));
        let spilling: Vec<&str> =
            spilling.filter(|line| !line.contains("0 bytes spill stores, 0 bytes spill loads")).collect();
        assert!(spilling.is_empty(), "{architecture}: {spilling:?}");
        let assembled = said.lines().filter(|line| line.contains("Compiling entry function")).count();
        assert_eq!(assembled, kernels, "{architecture}: {said}");
    }
}

/// With the feature, too: this program is linked as the library is.
#[test]
fn no_library_of_cuda_is_needed_to_start() {
    let chosen = Processor::Fastest { libraries: Vec::new(), precision: Precision::Tf32 }.choose();
    println!("{}", chosen.gpu.or(chosen.reason).expect("a GPU or a reason"));
    match Command::new("readelf").arg("-d").arg(std::env::current_exe().expect("a program")).output() {
        Err(error) => println!("skipped: readelf: {error}"),
        Ok(output) => {
            let needed = String::from_utf8_lossy(&output.stdout).to_lowercase();
            let needed = needed.lines().filter(|line| line.contains("(needed)"));
            let of_cuda: Vec<&str> = needed.filter(|line| line.contains("[libcu") || line.contains("nvrtc")).collect();
            assert!(of_cuda.is_empty(), "{of_cuda:?}");
        }
    }
}

#[test]
fn every_kernel_can_be_launched_on_the_processor() {
    let read = |name: &str| {
        std::fs::read_to_string(Path::new(ROOT).join("src/engine/ops/gpu").join(name)).expect("a source file")
    };
    let kernels = read("kernels.cu");
    let host = read("host.cpp");
    let calls = std::fs::read_to_string(Path::new(ROOT).join("src/engine/ops/gpu.rs")).expect("a source file");
    for line in kernels.lines().filter_map(|line| line.strip_prefix("KERNEL ")) {
        let name = line.split('(').next().expect("a name");
        assert!(host.contains(&format!("TRY({name})")), "host.cpp lacks {name}");
        assert!(calls.contains(&format!("\"{name}\"")), "gpu.rs does not call {name}");
    }
}
