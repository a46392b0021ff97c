//! The engine's side of `benches/memory.py`: one edit in a process of its own, with what it was expected to need and
//! what it took.
//!
//! Arguments: model folder, side of the picture in pixels, parameters as a JSON object, and `lightest` to have only as
//! much memory as the lightest mode needs that the parameters allow. Answers with a JSON object in bytes; `resident` is
//! the size after every hundredth step.

use candle_core::Device;
use imagic_edit::engine::Engine;
use imagic_edit::engine::budget::memory::Shapes;
use imagic_edit::engine::budget::plan;
use imagic_edit::engine::device::{Precision, Processor};
use imagic_edit::engine::model::family::Family;
use imagic_edit::engine::model::source::Source;
use imagic_edit::engine::request::{EditRequest, EngineOptions, Stage};
use imagic_edit::engine::tuning::mode::Mode;
use imagic_edit::error::{Error, Result};
use imagic_edit::image::LayerImage;
use imagic_edit::params::Params;
use imagic_edit::text::Text;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Between two looks at the resident size.
const STEPS_BETWEEN: u32 = 100;

/// What the engine is told.
static FREE: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, side, params, rest @ ..] = arguments.as_slice() else {
        return Err(Error::Parameter(Text::verbatim("needs model folder, side and parameters; run benches/memory.py")));
    };
    let model_path = PathBuf::from(model);
    let side: u32 =
        side.parse().map_err(|_| Error::Parameter(Text::verbatim(format!("the side is {side}, must be a number"))))?;
    let changes: Map<String, Value> = serde_json::from_str(params)
        .map_err(|error| Error::Parameter(Text::verbatim(format!("the parameters: {error}"))))?;
    let mut params = Params { prompt: "a photo of a bird".into(), resolution: side, ..Params::paper() };
    params.set_all(&changes)?;
    // As in `job.rs`, where the engine's thread is one of the pool's.
    let _pool = rayon::ThreadPoolBuilder::new().use_current_thread().build();

    let pixels = (0..side * side).flat_map(|i| [(i % side) as u16 * 60, (i / side) as u16 * 60, 30_000, u16::MAX]);
    let layer = LayerImage::new(side, side, pixels.collect()).expect("a square of that side").into();
    let request = EditRequest {
        layer,
        params,
        model_path,
        familiar_psnr: None,
        document: String::new(),
        previews: 0,
        layer_digest: None,
        selection: None,
    };
    let source = Source::open(&request.model_path)?;
    let shapes = Shapes::new(&source, Family::of(&source)?, &Device::Cpu)?;
    let task = shapes.task(&request, Precision::F32);
    let allowed = Mode::allowed(&request.params, &Processor::Cpu.choose());
    let mode = if rest == ["lightest"] { allowed[allowed.len() - 1] } else { allowed[0] };
    let needs = shapes.needs(&task, mode)?;
    let free = if mode == allowed[0] {
        u64::MAX / 2
    } else {
        // What is read before the choice counts as held, and that is all but the U-Net.
        needs.peak() + plan::margin(needs.peak()) - (needs.model - shapes.network_bytes())
    };
    FREE.store(free, Relaxed);
    let free_memory = || Some(FREE.load(Relaxed));
    let mut engine = Engine::new(EngineOptions { cache_limit: 0, free_memory, ..EngineOptions::default() });
    let mut peaks: BTreeMap<&str, u64> = BTreeMap::new();
    let mut resident: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let edit = engine.edit(&request, &mut |progress| {
        // What comes before a stage's first step is the stage's own, all but the loading.
        if progress.stage != Stage::LoadModel {
            let stage = if peaks.is_empty() { "load" } else { name(progress.stage) };
            let peak = peaks.entry(stage).or_default();
            *peak = (*peak).max(status("VmHWM"));
            if progress.step > 0 && progress.step.is_multiple_of(STEPS_BETWEEN) {
                resident.entry(stage).or_default().push(status("VmRSS"));
            }
        }
        // The next peak is of what follows.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        ControlFlow::Continue(())
    })?;
    let peak = peaks.entry(name(Stage::Generate)).or_default();
    *peak = (*peak).max(status("VmHWM"));
    let seconds: BTreeMap<&str, f32> = edit.seconds.iter().map(|&(stage, seconds)| (name(stage), seconds)).collect();
    let expected = json!({
        "load": needs.model, "A": needs.embedding, "B": needs.tuning, "C": needs.generation, "peak": needs.peak(),
    });
    let mode = format!("{mode:?}");
    println!(
        "{}",
        json!({ "mode": mode, "expected": expected, "measured": peaks, "resident": resident, "seconds": seconds })
    );
    Ok(())
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::LoadModel | Stage::Wait => "load",
        Stage::OptimizeTextEmbedding => "A",
        Stage::FineTune => "B",
        Stage::FineTuneDetail => "detail B",
        Stage::Generate => "C",
        Stage::Enlarge => "detail C",
    }
}

/// A line of /proc/self/status, in bytes.
fn status(key: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = table.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("every process has it");
    1024 * line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).expect("a number of KiB")
}
