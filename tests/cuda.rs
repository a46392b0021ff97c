//! The GPU as far as a machine without one can check it: kernels compile, the program starts without CUDA, and, built
//! with the feature `cuda`, whole edits on a driver whose card is the processor (tests/cuda/driver.cpp). tests/cuda/run
//! does all of it, `cargo build` before, whose library the program loads. `src/engine/ops/gpu/tests.rs` compares single
//! operations.

use imagic_edit::engine::device::{Launches, Precision, Processor};
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

fn source(name: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join("src/engine/ops/gpu").join(name)).expect("a source file")
}

/// A kernel's name, without what it ends with for tensors of 16 bits, and in which list of host.cpp it must be; once
/// for each type.
fn kernels() -> Vec<(String, &'static str)> {
    let until = |line: &str, end| line.split(end).next().expect("a name").to_owned();
    let (mut kernels, mut only) = (Vec::new(), "");
    for file in ["kernels.cu", "adam8.cu"] {
        let names = source(file);
        let names = names.lines().filter_map(|line| Some(until(line.strip_prefix("KERNEL ")?, '(')));
        kernels.extend(names.map(|name| (name, "TRY")));
    }
    for line in source("typed.cu").lines() {
        match line.strip_prefix("#ifdef ") {
            Some(which) => only = if which == "NARROW" { "NARROW" } else { "TRAINING" },
            None if line == "#endif" => only = "",
            None => {}
        }
        // What one line of a list makes for heads of that width.
        let of_width = |list, parts: &[&str]| {
            let width = line.strip_prefix(list).map(|line| until(line, ','));
            width.map(|width| parts.iter().map(|part| format!("attention_{part}{width}")).collect())
        };
        let names: Vec<String> = line
            .strip_prefix("KERNEL_OF_T(")
            .map(|line| vec![until(line, ')')])
            .or_else(|| of_width("ATTENTION(", &[""]))
            .or_else(|| of_width("ATTENTION_GRADIENTS(", &["statistics_", "query_gradient_", "key_gradients_"]))
            .unwrap_or_default();
        let (list, types) = match only {
            "NARROW" => ("TRY_NARROW", 2),
            "TRAINING" => ("TRY_TRAINING", 2),
            _ => ("TRY_EACH", 3),
        };
        for name in names {
            kernels.extend(std::iter::repeat_n((name, list), types));
        }
    }
    kernels
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
    let (libraries, precision, launches) = (Vec::new(), Precision::Tf32, Launches::Eager);
    let chosen = Processor::Fastest { libraries, precision, launches, eight_bit_moments: false }.choose();
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
    let host = source("host.cpp");
    let folder = std::fs::read_dir(Path::new(ROOT).join("src/engine/ops/gpu")).expect("a folder");
    let files = folder.map(|entry| entry.expect("an entry").path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let calls: String = files.map(|path| std::fs::read_to_string(path).expect("a source file")).collect();
    // The names of attention's kernels end with the size of a head, one of those listed in fused.rs.
    let (_, sizes) = calls.split_once("const KERNELS: [usize; 4] = [").expect("the list of sizes");
    let sizes: Vec<&str> = sizes.split_once(']').expect("its end").0.split(", ").collect();
    let is_of_a_size = |name: &str| {
        let (stem, size) = name.rsplit_once('_').unwrap_or_default();
        sizes.contains(&size) && calls.contains(&format!("self.kernel(\"{stem}\")"))
    };
    for (name, list) in kernels() {
        assert!(host.contains(&format!("{list}({name})")), "host.cpp lacks {list}({name})");
        assert!(calls.contains(&format!("\"{name}\"")) || is_of_a_size(&name), "ops/gpu does not call {name}");
    }
}

#[cfg(feature = "cuda")]
mod on_a_driver_of_ours {
    use super::{ROOT, run};
    use std::path::{Path, PathBuf};
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

    /// An edit of a small picture.
    struct Edited {
        pixels: Vec<u8>,
        /// The tuned model, as it is kept on disk.
        model: Vec<u8>,
        said: String,
        /// What the driver was asked for between two moments at which the program waited for it.
        asked: Vec<Asked>,
    }

    /// What a driver was asked for, in numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Asked {
        /// Kernels, products, copies and fillings in the card's memory.
        launches: u64,
        /// Copies from the processor.
        copies: u64,
        allocations: u64,
        graphs: u64,
    }

    /// What a step asks for that is replayed: its inputs are noise, timesteps twice, and Adam's numbers.
    const REPLAYED: Asked = Asked { launches: 0, copies: 4, allocations: 0, graphs: 1 };

    /// One for all, because its path is part of what is kept.
    fn source() -> &'static PathBuf {
        static SOURCE: OnceLock<PathBuf> = OnceLock::new();
        SOURCE.get_or_init(|| {
            let source = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("in.png");
            let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([4 * x as u8, 4 * y as u8, 128]));
            picture.save(&source).expect("a picture");
            source
        })
    }

    fn edit(name: &str, prepare: impl FnOnce(&mut Command)) -> Edited {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let [result, log] = ["out.png", "log"].map(|part| folder.join(format!("{name}-{part}")));
        let _ = std::fs::remove_file(&log);
        let mut program = program(name);
        program.arg("edit").arg(source()).args(["--prompt", "a red square", "--sampling-steps", "5"]);
        program.args(["--model", &format!("{ROOT}/tests/fixtures/small-sd1/model")]).arg("--output").arg(&result);
        program.args(["--embedding-steps", "5", "--tuning-steps", "6"]).env("STUB_LOG", &log);
        prepare(&mut program);
        let said = String::from_utf8_lossy(&run(&mut program).stderr).into_owned();
        let pixels = image::open(result).expect("a result").into_rgb8().into_raw();
        let model = kept(&folder.join(name)).map(|file| std::fs::read(file).expect("a tuned model"));
        let asked = std::fs::read_to_string(log).unwrap_or_default().lines().map(asked).collect();
        Edited { pixels, model: model.unwrap_or_default(), said, asked }
    }

    /// The tuned model somewhere in `folder`.
    fn kept(folder: &Path) -> Option<PathBuf> {
        std::fs::read_dir(folder).ok()?.map(|entry| entry.expect("an entry").path()).find_map(|path| {
            let is_model = path.extension().is_some_and(|extension| extension == "safetensors");
            if path.is_dir() { kept(&path) } else { Some(path).filter(|_| is_model) }
        })
    }

    fn asked(line: &str) -> Asked {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |name: &str| {
            let at = words.iter().position(|word| *word == name).unwrap_or_else(|| panic!("{line} has no {name}"));
            words[at + 1].parse().expect("a number")
        };
        let [launches, copies, allocations, graphs] = ["launches", "copies", "allocations", "graphs"].map(number);
        Asked { launches, copies, allocations, graphs }
    }

    fn on_gpu(program: &mut Command) {
        program.env("LD_LIBRARY_PATH", driver());
    }

    /// With what is off by default.
    fn with_experiments(program: &mut Command, words: &str) {
        program.env("LD_LIBRARY_PATH", driver()).env("IMAGIC_EXPERIMENTAL", words);
    }

    #[test]
    fn doctor_says_what_the_gpu_computes_in() {
        let said = doctor("doctor-bf16", ("IMAGIC_PRECISION", "bf16"));
        assert!(said.contains("ok GPU a processor as a card, 16.8 GB, CUDA 13.0, in bf16; edits run on it"), "{said}");
    }

    #[test]
    fn doctor_refuses_settings_that_there_are_not() {
        for (setting, expected) in [
            (("IMAGIC_PRECISION", "f64"), "IMAGIC_PRECISION is f64, must be f32, tf32 or bf16"),
            (("IMAGIC_EXPERIMENTAL", "graphs,graph"), "IMAGIC_EXPERIMENTAL has graph, must be graphs, moments8"),
        ] {
            let said = doctor("doctor-refuses", setting);
            assert!(said.contains(expected), "{setting:?}: {said}");
        }
    }

    #[test]
    fn an_edit_with_own_attention_looks_the_same() {
        let on_cpu = edit("edit-cpu-again", |_| {});
        let edited = edit("edit-attention", |program| with_experiments(program, "attention"));
        let difference = on_cpu.pixels.iter().zip(&edited.pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(difference <= Some(1), "{difference:?}");
    }

    #[test]
    fn an_edit_in_16_bits_looks_the_same() {
        let on_cpu = edit("edit-cpu-too", |_| {});
        let in_16_bits = edit("edit-bf16", |program| {
            on_gpu(program);
            program.env("IMAGIC_PRECISION", "bf16");
        });
        let difference = on_cpu.pixels.iter().zip(&in_16_bits.pixels).map(|(a, b)| a.abs_diff(*b)).max();
        // One level was measured: the fewest bits are f16's, whose steps are an eighth of a level at the ends of the
        // range.
        assert!(difference <= Some(2), "{difference:?}");
    }

    /// Numbers of allocations in stage B, in an edit whose mode is the first one, and in the one that goes on from
    /// there.
    const FULL_AT: &str = "11500";
    const FULL_AGAIN: &str = "16000";

    #[test]
    fn an_edit_there_is_the_one_on_the_processor_and_full_memory_does_not_change_it() {
        let on_cpu = edit("edit-cpu", |_| {});
        let edited = edit("edit-gpu", on_gpu);
        let difference = on_cpu.pixels.iter().zip(&edited.pixels).map(|(a, b)| a.abs_diff(*b)).max();
        // Sums are taken in another order, and a value may fall on the other side of a half.
        assert!(difference <= Some(1), "{difference:?}");
        assert!(!edited.said.contains("memory was full"), "{}", edited.said);
        // In stage B, where variables have been changed already when the step fails.
        let full_at = |program: &mut Command| {
            program.env("STUB_FULL_AT", FULL_AT);
        };
        let full = edit("edit-full", |program| {
            on_gpu(program);
            full_at(program);
        });
        let note = "the GPU's memory was full, so it was tuned from there with all weights";
        assert!(full.said.contains(note), "{}", full.said);
        assert!(full.pixels == edited.pixels, "another result");
        // And once more when it goes on: then the network is read again, and gets adapters.
        let adapters = edit("edit-full-again", |program| {
            on_gpu(program);
            full_at(program);
            program.env("STUB_FULL_AGAIN", FULL_AGAIN);
        });
        assert!(adapters.said.contains("with adapters (LoRA)"), "{}", adapters.said);
        // Or moments of 8 bits, which are off by default.
        let in_8_bits = edit("edit-full-again-8", |program| {
            with_experiments(program, "moments8");
            full_at(program);
            program.env("STUB_FULL_AGAIN", FULL_AGAIN);
        });
        assert!(in_8_bits.said.contains("with all weights, moments in 8 bits"), "{}", in_8_bits.said);
        let difference = in_8_bits.pixels.iter().zip(&edited.pixels).map(|(a, b)| a.abs_diff(*b)).max();
        // Few small steps, whose moments are half a percent off.
        assert!(difference <= Some(1), "{difference:?}");
    }

    /// A step with eager launches asks for many things; nobody but a step does.
    const MANY: u64 = 1000;

    #[test]
    fn a_step_copies_nothing_but_its_inputs_and_waits_once() {
        let edited = edit("edit-eager", on_gpu);
        let steps: Vec<Asked> = edited.asked.into_iter().filter(|asked| asked.launches > MANY).collect();
        // Stages A and B; C waits when it is over.
        assert_eq!(steps.len(), 5 + 6 + 1, "{steps:?}");
        for stage in [&steps[..5], &steps[5..11]] {
            println!("{:?}", stage[1]);
            // The first makes what stays.
            assert!(stage[1..].iter().all(|asked| asked.copies == REPLAYED.copies), "{stage:?}");
            assert!(stage[2..].iter().all(|asked| *asked == stage[1]), "{stage:?}");
        }
        println!("{:?}", steps[11]);
        // Where it starts, the empty text's embedding, and the timestep in each of five steps.
        assert_eq!(steps[11].copies, 2 + 5, "{:?}", steps[11]);
    }

    /// What is said where steps cannot be replayed.
    const FALLS_BACK: &str = "steps are not replayed";

    #[test]
    fn a_step_is_replayed_and_gives_the_same_bytes() {
        for (number, arguments) in [
            &["--tuning-mode", "full"][..],
            &["--tuning-mode", "checkpointed", "--batch-size", "2"],
            &["--tuning-mode", "lora", "--batch-size", "3"],
            &["--guidance", "1"],
        ]
        .into_iter()
        .enumerate()
        {
            let expected = edit(&format!("edit-eager-{number}"), |program| {
                on_gpu(program);
                program.args(arguments);
            });
            let replayed = edit(&format!("edit-replayed-{number}"), |program| {
                with_experiments(program, "graphs");
                program.args(arguments);
            });
            assert!(!replayed.said.contains(FALLS_BACK), "{}", replayed.said);
            assert!(replayed.pixels == expected.pixels, "another picture with {arguments:?}");
            assert!(!expected.model.is_empty() && replayed.model == expected.model, "another model with {arguments:?}");
            let graphs: u64 = replayed.asked.iter().map(|asked| asked.graphs).sum();
            // All steps of a stage but the first.
            assert_eq!(graphs, 4 + 5 + 4, "{arguments:?}");
            let steps = replayed.asked.iter().filter(|asked| **asked == REPLAYED).count();
            // In the second step it is recorded.
            assert_eq!(steps, 3 + 4, "{arguments:?}");
        }
    }

    #[test]
    fn steps_that_a_driver_cannot_record_are_launched_eagerly() {
        let expected = edit("edit-recorded", |program| with_experiments(program, "graphs"));
        for (number, (setting, reason)) in [
            (("STUB_NO_GRAPHS", "1"), "operation not permitted when stream is capturing"),
            (("STUB_NO_GRAPHS", "2"), "operation not permitted when stream is capturing"),
            (("STUB_GRAPHS_FULL", "1"), "out of memory"),
            (("STUB_GRAPHS_FULL", "2"), "out of memory"),
            // With 3.2 GB, the least.
            (("STUB_MEMORY", "3072"), ""),
        ]
        .into_iter()
        .enumerate()
        {
            let edited = edit(&format!("edit-unrecorded-{number}"), |program| {
                with_experiments(program, "graphs");
                program.env(setting.0, setting.1);
            });
            let said: Vec<&str> = edited.said.lines().filter(|line| line.contains(FALLS_BACK)).collect();
            match reason {
                "" => assert!(said.is_empty(), "{setting:?}: {said:?}"),
                // Once, although three stages try.
                _ => assert!(said.len() == 1 && said[0].contains(reason), "{setting:?}: {said:?}"),
            }
            assert!(edited.pixels == expected.pixels && edited.model == expected.model, "{setting:?}: another result");
        }
    }
}
