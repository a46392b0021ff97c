//! The GPU as far as a machine without one can check it: kernels compile, the program starts without CUDA, and, built with the feature
//! `cuda`, whole edits on a driver whose card is the processor (tests/cuda/driver.cpp). tests/cuda/run does all of it, `cargo build`
//! before, whose library the program loads.
//! `src/engine/ops/gpu/tests.rs` compares single operations.

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

/// Names of all kernels.
fn kernels() -> Vec<String> {
    let folder = Path::new(ROOT).join("src/engine/ops/gpu");
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let sources = files.filter(|file| file.extension().is_some_and(|extension| extension == "cu"));
    let text: String = sources.map(|file| std::fs::read_to_string(file).expect("a source file")).collect();
    let lines = text.lines().filter_map(|line| line.strip_prefix("KERNEL "));
    lines.map(|line| line.split('(').next().expect("a name").to_owned()).collect()
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
    let kernels = kernels().len();
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
    let host = read("host.cpp");
    let calls = ["../gpu.rs", "adam8.rs", "attention.rs", "conv.rs", "fused.rs", "norm.rs"].map(read).concat();
    for name in kernels() {
        assert!(host.contains(&format!("TRY({name})")), "host.cpp lacks {name}");
        assert!(calls.contains(&format!("\"{name}\"")), "gpu.rs and its parts do not call {name}");
    }
}

#[cfg(feature = "cuda")]
mod on_a_driver_of_ours {
    use super::{ROOT, run};
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::OnceLock;

    /// Folder of the driver and its cuBLAS, which are one file.
    fn driver() -> &'static PathBuf {
        static DRIVER: OnceLock<PathBuf> = OnceLock::new();
        DRIVER.get_or_init(|| {
            let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("driver");
            std::fs::create_dir_all(&folder).expect("a folder");
            let mut compile = Command::new("c++");
            compile.args([
                "-std=c++17",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-shared",
                "-fPIC",
                "-fvisibility=hidden",
                "-o",
            ]);
            run(compile.arg(folder.join("libcuda.so.1")).arg(format!("{ROOT}/tests/cuda/driver.cpp")));
            let blas = folder.join("libcublas.so.13");
            if !blas.exists() {
                std::os::unix::fs::symlink("libcuda.so.1", blas).expect("a link");
            }
            folder
        })
    }

    /// The program with an account of its own, called `name`.
    fn program(name: &str) -> Command {
        let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        // From an earlier run.
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir_all(&home).expect("a folder");
        let mut program = Command::new(env!("CARGO_BIN_EXE_imagic-edit"));
        program.env("HOME", &home).env_remove("XDG_CACHE_HOME").env_remove("XDG_DATA_HOME").env("LC_ALL", "C");
        program
    }

    /// What doctor says, in one line.
    fn doctor(name: &str, setting: (&str, &str)) -> String {
        let output = program(name).arg("doctor").env("LD_LIBRARY_PATH", driver()).env(setting.0, setting.1).output();
        let text = String::from_utf8(output.expect("doctor runs").stdout).expect("a text");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn doctor_says_what_edits_run_on_and_why() {
        for (number, (setting, expected)) in [
            (("STUB_CARDS", "1"), "ok GPU a processor as a card, 16.8 GB, CUDA 13.0; edits run on it"),
            (
                ("STUB_CUDA_VERSION", "12040"),
                "not on a GPU, because NVIDIA's driver is of CUDA 12.4, must be of 13.0 or newer",
            ),
            (
                ("STUB_CAPABILITY", "75"),
                "not on a GPU, because a processor as a card has compute capability 7.5, must be 8.0",
            ),
            (
                ("STUB_MEMORY", "2000"),
                "not on a GPU, because a processor as a card has 2.1 GB of memory, must have 3.2 GB",
            ),
            (("STUB_CARDS", "0"), "not on a GPU, because NVIDIA's driver finds no GPU"),
        ]
        .into_iter()
        .enumerate()
        {
            let said = doctor(&format!("doctor-{number}"), setting);
            assert!(said.contains(expected), "{setting:?}: {said}");
        }
    }

    /// Pixels of an edit of a small picture, and what was said.
    fn edit(name: &str, prepare: impl FnOnce(&mut Command)) -> (Vec<u8>, String) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let (source, result) = (folder.join(format!("{name}-in.png")), folder.join(format!("{name}-out.png")));
        image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([4 * x as u8, 4 * y as u8, 128]))
            .save(&source)
            .expect("a picture");
        let mut program = program(name);
        program.arg("edit").arg(&source).args(["--prompt", "a red square", "--sampling-steps", "3"]);
        program.args(["--model", &format!("{ROOT}/tests/fixtures/small-sd1/model")]).arg("--output").arg(&result);
        program.args(["--embedding-steps", "3", "--tuning-steps", "3"]);
        prepare(&mut program);
        let output = run(&mut program);
        let pixels = image::open(result).expect("a result").into_rgb8().into_raw();
        (pixels, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn an_edit_there_is_the_one_on_the_processor_and_full_memory_does_not_change_it() {
        let (on_cpu, _) = edit("edit-cpu", |_| {});
        let (on_gpu, said) = edit("edit-gpu", |program| {
            program.env("LD_LIBRARY_PATH", driver());
        });
        let difference = on_cpu.iter().zip(&on_gpu).map(|(a, b)| a.abs_diff(*b)).max();
        // Sums are taken in another order, and a value may fall on the other side of a half.
        assert!(difference <= Some(1), "{difference:?}");
        assert!(!said.contains("memory was full"), "{said}");
        // In stage B, where variables have been changed already when the step fails.
        let full = |program: &mut Command| {
            program.env("LD_LIBRARY_PATH", driver()).env("STUB_FULL_AT", "9000");
        };
        let (after_all, said) = edit("edit-full", full);
        assert!(said.contains("the GPU's memory was full, so it was tuned from there with all weights"), "{said}");
        assert!(after_all == on_gpu, "another result");
        // And once more when it goes on: then the network is read again, and tuned with moments of 8 bits.
        let (in_8_bits, said) = edit("edit-full-again", |program| {
            full(program);
            program.env("STUB_FULL_AGAIN", "12000");
        });
        assert!(said.contains("with all weights, moments in 8 bits"), "{said}");
        let difference = in_8_bits.iter().zip(&on_gpu).map(|(a, b)| a.abs_diff(*b)).max();
        // Three small steps, whose moments are half a percent off.
        assert!(difference <= Some(1), "{difference:?}");
    }
}
