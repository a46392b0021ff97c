//! The files of base models that people have: every layout comes to the same networks as diffusers makes of it, and
//! what is no base model is named.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use imagic_edit::catalog::{self, Places};
use imagic_edit::engine::Engine;
use imagic_edit::engine::base::BaseModel;
use imagic_edit::engine::model::family::{Family, STABLE_DIFFUSION_1};
use imagic_edit::engine::model::source::{Part, Source};
use imagic_edit::engine::model::tokenizer::Tokenizer;
use imagic_edit::engine::model::unet::UNetConfig;
use imagic_edit::engine::request::{EditRequest, EngineOptions};
use imagic_edit::image::LayerImage;
use imagic_edit::params::Params;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The folder of a small model as diffusers writes it, with files of its own that a test may change.
fn folder() -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    let model = fixtures().join("small-sd1/model");
    for part in ["", "scheduler", "text_encoder", "tokenizer", "unet", "vae"] {
        std::fs::create_dir_all(copy.path().join(part)).expect("a folder");
        for entry in std::fs::read_dir(model.join(part)).expect("the fixture").flatten() {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), copy.path().join(part).join(entry.file_name())).expect("a copy");
            }
        }
    }
    copy
}

fn open(path: &Path) -> Source {
    Source::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Why the model at `path` is refused.
fn refusal(path: &Path) -> String {
    match Source::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

/// Tensors to write: name, type, shape, bytes.
#[derive(Default)]
struct File {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    notes: HashMap<String, String>,
}

impl File {
    /// With tensors of zeros of these names and shapes.
    fn of(shapes: &[(&str, &[usize])]) -> Self {
        let mut file = Self::default();
        for (name, shape) in shapes {
            file.add(name, Dtype::F32, shape, vec![0; 4 * shape.iter().product::<usize>()]);
        }
        file
    }

    fn add(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.insert(name.to_owned(), (dtype, shape.to_vec(), bytes));
    }

    fn write(&self, path: &Path) {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
        });
        safetensors::serialize_to_file(views, Some(self.notes.clone()), path).expect("a file");
    }
}

/// What diffusers makes of a single file, see `tests/reference/make_single_files.py`.
struct Notes(Value);

impl Notes {
    fn of(family: &str) -> Self {
        let file = fixtures().join("single-files").join(format!("{family}.json"));
        Self(serde_json::from_slice(&std::fs::read(file).expect("the fixture")).expect("JSON"))
    }

    /// The shape of the file's tensor `name`.
    fn shape(&self, name: &str) -> Vec<usize> {
        let sides = self.0["shapes"][name].as_array().expect("a shape");
        sides.iter().map(|side| side.as_u64().expect("a side") as usize).collect()
    }

    /// Every tensor of the file, with values of its own.
    fn file(&self) -> File {
        let mut file = File::default();
        for (name, _) in self.0["shapes"].as_object().expect("shapes") {
            let shape = self.shape(name);
            let bytes = values(name, shape.iter().product()).flat_map(f16::to_le_bytes).collect();
            file.add(name, Dtype::F16, &shape, bytes);
        }
        file
    }

    /// The networks that diffusers finds, each with its tensors: theirs, and the name and the way of the file's.
    fn networks(&self) -> impl Iterator<Item = (&str, &serde_json::Map<String, Value>)> {
        let networks = self.0["networks"].as_object().expect("networks");
        networks.iter().map(|(part, tensors)| (part.as_str(), tensors.as_object().expect("tensors")))
    }

    /// What diffusers makes of the file's tensor `name` when it is taken in the way `take`.
    fn taken(&self, name: &str, take: &str) -> Tensor {
        let shape = self.shape(name);
        let numbers: Vec<f32> = values(name, shape.iter().product()).map(f32::from).collect();
        let tensor = Tensor::from_vec(numbers, shape.as_slice(), &Device::Cpu).expect("a tensor");
        let third = |i: usize| tensor.narrow(0, i * shape[0] / 3, shape[0] / 3);
        let taken = match take {
            "whole" => Ok(tensor),
            "first third" => third(0),
            "second third" => third(1),
            "last third" => third(2),
            "transposed" => tensor.t(),
            "linear" => tensor.flatten_from(1),
            other => panic!("{other}"),
        };
        taken.and_then(|taken| taken.contiguous()).expect("a tensor")
    }
}

/// Numbers like those of a layer, other ones for every name; about 1 for norms.
fn values(name: &str, count: usize) -> impl Iterator<Item = f16> {
    let mut state = name.bytes().fold(17u64, |state, byte| state.wrapping_mul(31).wrapping_add(u64::from(byte))) | 1;
    let middle = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
    (0..count).map(move |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f16::from_f32(middle + ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.1)
    })
}

fn part(name: &str) -> Part {
    match name {
        "unet" => Part::UNet,
        "vae" => Part::Vae,
        "text_encoder" => Part::TextEncoder,
        _ => Part::TextEncoder2,
    }
}

fn assert_equal(what: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let numbers = |tensor: &Tensor| tensor.flatten_all().and_then(|all| all.to_vec1::<f32>()).expect("numbers");
    assert!(numbers(ours) == numbers(theirs), "{what} has other values");
}

#[test]
fn a_single_file_has_the_tensors_that_diffusers_finds_in_it() {
    for family in ["sd1", "sd2", "sdxl", "x4"] {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = place.path().join("model.safetensors");
        let notes = Notes::of(family);
        let mut file = notes.file();
        // What is in many files and in no network.
        for name in ["betas", "alphas_cumprod", "cond_stage_model.logit_scale", "embedding_manager.x"] {
            file.add(name, Dtype::F32, &[2], vec![0; 8]);
        }
        file.add("global_step", Dtype::I64, &[], vec![0; 8]);
        file.write(&path);
        let source = match family {
            "x4" => {
                let what = "this is a model that enlarges pictures, which cannot be used for edits";
                assert!(refusal(&path).contains(what), "{}", refusal(&path));
                Source::open_enlarger(&path).expect("a model that enlarges")
            }
            _ => open(&path),
        };
        for (name, tensors) in notes.networks() {
            let ours = source.tensors(part(name), &Device::Cpu).expect("tensors");
            // transformers 5 leaves out the outer name, which files from before it have.
            let inner = |name: &str| name.trim_start_matches("text_model.").to_owned();
            let ours: BTreeMap<_, _> = ours.tensors.iter().map(|(name, tensor)| (inner(name), tensor)).collect();
            let expected: Vec<_> = tensors.keys().map(|name| inner(name)).collect();
            assert_eq!(ours.keys().cloned().collect::<Vec<_>>(), expected, "{family} {name}");
            for (tensor, way) in tensors {
                let theirs = notes.taken(way[0].as_str().expect("a name"), way[1].as_str().expect("a way"));
                assert_equal(&format!("{family} {name} {tensor}"), ours[&inner(tensor)], &theirs);
            }
        }
        for (name, config) in notes.0["configs"].as_object().expect("configurations") {
            for (key, value) in config.as_object().expect("a configuration") {
                let ours = source.config(part(name)).value(key);
                // Published with every model of a family, and not to be read off a file; or of no meaning here.
                let is_told = !["sample_size", "down_block_types", "up_block_types", "num_hidden_layers"]
                    .contains(&key.as_str())
                    || name == "unet" && key != "sample_size";
                assert!(!is_told || ours.is_null() || ours == value, "{family} {name} {key}: {ours}, not {value}");
            }
        }
    }
}

/// A folder in diffusers' layout with the same tensors as `file`, cut and named by diffusers.
fn as_folder(notes: &Notes, path: &Path) {
    for (name, tensors) in notes.networks() {
        let folder = path.join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut config = notes.0["configs"][name].clone();
        config["norm_num_groups"] = json!(32);
        std::fs::write(folder.join("config.json"), config.to_string()).expect("a file");
        let mut file = File::default();
        for (tensor, way) in tensors {
            let taken = notes.taken(way[0].as_str().expect("a name"), way[1].as_str().expect("a way"));
            let numbers = taken.flatten_all().and_then(|all| all.to_vec1::<f32>()).expect("numbers");
            let bytes = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
            file.add(tensor, Dtype::F32, taken.dims(), bytes);
        }
        let stem = if name.starts_with("text") { "model" } else { "diffusion_pytorch_model" };
        file.write(&folder.join(format!("{stem}.safetensors")));
    }
}

/// The pixels that a short edit with the model at `path` ends in, with other values of some parameters.
fn edited(path: &Path, changes: &[(&str, Value)]) -> Vec<u16> {
    let mut params = Params::paper();
    let usual = [
        ("prompt", json!("a photo of a cat")),
        ("resolution", json!(64)),
        ("embedding_steps", json!(1)),
        ("tuning_steps", json!(1)),
        ("sampling_steps", json!(2)),
    ];
    for (name, value) in usual.iter().chain(changes) {
        params.set(name, value).expect("a parameter");
    }
    let rgba: Vec<u16> =
        (0..64 * 64 * 4).map(|i| if i % 4 == 3 { u16::MAX } else { (i * 7919 % 65536) as u16 }).collect();
    let layer = std::sync::Arc::new(LayerImage::new(64, 64, rgba).expect("a layer"));
    let request = EditRequest {
        layer: layer.clone(),
        selection: None,
        layer_digest: None,
        params,
        model_path: path.to_owned(),
        familiar_psnr: None,
        document: String::new(),
        previews: 0,
    };
    let mut engine = Engine::new(EngineOptions {
        cache_limit: 0,
        resume_every: std::time::Duration::MAX,
        ..EngineOptions::default()
    });
    let edit = engine.edit(&request, &mut |_| ControlFlow::Continue(())).expect("an edit");
    edit.picture.on(&layer).0.rgba().to_vec()
}

#[test]
fn an_edit_with_a_single_file_is_that_with_its_folder() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let notes = Notes::of("sd1");
    let file = place.path().join("model.safetensors");
    notes.file().write(&file);
    as_folder(&notes, &place.path().join("folder"));
    // The file's weights have 16 bits and stay so while they are frozen, the folder's have 32.
    for mode in ["full", "lora"] {
        let mode = [("tuning_mode", json!(mode)), ("tuning_steps", json!(2))];
        assert!(edited(&file, &mode) == edited(&place.path().join("folder"), &mode), "{mode:?}");
    }
}

#[test]
fn frozen_weights_keep_the_bits_that_they_are_stored_in() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let file = place.path().join("model.safetensors");
    Notes::of("sd1").file().write(&file);
    let source = open(&file);
    let base = BaseModel::read(source.clone(), String::new(), &Device::Cpu).expect("a model");
    let weights = base.network(&Device::Cpu).expect("weights");
    assert!(weights.tensors.values().all(|tensor| (tensor.dtype() == DType::F16) == (tensor.rank() > 1)));
    assert_eq!(weights.bytes(), base.shapes.network_bytes());
    assert!(base.shapes.network_bytes() * 100 < base.shapes.tuned_bytes() * 51);
}

/// A single file whose autoencoder is elsewhere.
#[test]
fn another_vae_takes_the_place_of_the_models() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| place.path().join(name);
    let notes = Notes::of("sd1");
    let (whole, without) = (at("whole/model.safetensors"), at("models/without.safetensors"));
    for folder in ["whole", "models", "vae", "elsewhere"] {
        std::fs::create_dir(at(folder)).expect("a folder");
    }
    notes.file().write(&whole);
    as_folder(&notes, &at("elsewhere/folder"));
    let (mut file, mut vae) = (notes.file(), File::default());
    file.tensors.retain(|name, data| match name.strip_prefix("first_stage_model.") {
        Some(name) => {
            vae.tensors.insert(name.to_owned(), data.clone());
            false
        }
        None => true,
    });
    file.write(&without);
    vae.write(&at("vae/original.safetensors"));

    let reason = refusal(&without);
    assert!(reason.contains("has no VAE") && reason.contains("without.vae.safetensors"), "{reason}");
    // A model of another family has none that fits, one of the same family has.
    Notes::of("sdxl").file().write(&at("models/a.safetensors"));
    let reason = refusal(&without);
    assert!(reason.contains("without.vae.safetensors"), "{reason}");
    std::fs::copy(&whole, at("models/b.safetensors")).expect("a copy");
    let reason = refusal(&without);
    assert!(reason.ends_with(&format!("for example {}", at("models/b.safetensors").display())), "{reason}");
    std::fs::remove_file(at("models/b.safetensors")).expect("it is ours");
    as_folder(&notes, &at("models/folder"));
    let reason = refusal(&without);
    assert!(reason.ends_with(&format!("for example {}", at("models/folder").display())), "{reason}");

    let chosen = |vae: &Path| [("vae", json!(vae.to_string_lossy()))];
    let tensors = |source: &Source| source.tensors(Part::Vae, &Device::Cpu).expect("tensors").tensors;
    let expected = tensors(&open(&whole));
    for vae in [
        at("vae/original.safetensors"),
        whole.clone(),
        at("elsewhere/folder"),
        at("elsewhere/folder/vae"),
        at("elsewhere/folder/vae/diffusion_pytorch_model.safetensors"),
    ] {
        let ours = tensors(&Source::with_vae(&without, Some(&vae)).expect("a model"));
        assert_eq!(ours.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{}", vae.display());
        for (name, tensor) in &expected {
            assert_equal(&format!("{} {name}", vae.display()), &ours[name], tensor);
        }
    }
    let expected = edited(&whole, &[]);
    assert!(edited(&without, &chosen(&at("vae/original.safetensors"))) == expected);
    // It also takes the place of one that is there, and is part of what an edit depends on.
    let mut other = File::default();
    for (name, (dtype, shape, bytes)) in &vae.tensors {
        let name_is_bias = name.ends_with("decoder.conv_out.bias");
        other.add(name, *dtype, shape, if name_is_bias { f16::ONE.to_le_bytes().repeat(3) } else { bytes.clone() });
    }
    other.write(&at("vae/other.safetensors"));
    assert!(edited(&at("elsewhere/folder"), &chosen(&at("vae/other.safetensors"))) != expected);
    let fingerprint = |vae: Option<&Path>| {
        let source = Source::with_vae(&whole, vae).expect("a model");
        source.fingerprint(&mut |_, path| Ok(path.display().to_string())).expect("a fingerprint")
    };
    assert!(fingerprint(None) != fingerprint(Some(&at("vae/original.safetensors"))));

    let refused = |vae: &Path| {
        let source = Source::with_vae(&whole, Some(vae));
        let read = source.and_then(|source| BaseModel::read(source, String::new(), &Device::Cpu));
        read.err().unwrap_or_else(|| panic!("{} was taken", vae.display())).to_string()
    };
    let config = at("elsewhere/folder/vae/config.json");
    let mut other: Value = serde_json::from_slice(&std::fs::read(&config).expect("a file")).expect("JSON");
    other["scaling_factor"] = json!(0.13025);
    std::fs::write(&config, other.to_string()).expect("a file");
    let reason = refused(&at("elsewhere/folder/vae"));
    assert!(reason.contains("of another family: it scales latents by 0.13025"), "{reason}");
    for (vae, expected) in [("elsewhere/folder/unet", "is no VAE"), ("nowhere", "no such file")] {
        let reason = refused(&at(vae));
        assert!(reason.contains(expected), "{reason}");
    }
    let reason = refused(&without);
    assert!(reason.contains("is no VAE"), "{reason}");
}

#[test]
fn the_size_of_a_single_file_is_that_of_its_notes_or_of_what_predicts_v_in_its_family() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let side = |what: &str, family: &str, note: Option<(&str, &str)>, yaml: Option<&str>| {
        let path = place.path().join(format!("{what}.safetensors"));
        let mut file = Notes::of(family).file();
        file.notes.extend(note.map(|(key, value)| (key.to_owned(), value.to_owned())));
        file.write(&path);
        if let Some(yaml) = yaml {
            std::fs::write(path.with_extension("yaml"), yaml).expect("a file");
        }
        let source = open(&path);
        let family = Family::of(&source).expect("a family");
        UNetConfig::read(&source, family).expect("a configuration").sample_size
    };
    assert_eq!(side("sd1", "sd1", None, None), 64);
    assert_eq!(side("sd2", "sd2", None, None), 64);
    assert_eq!(side("v", "sd2", Some(("modelspec.prediction_type", "v")), None), 96);
    let yaml = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    parameterization: \"v\"\n";
    assert_eq!(side("yaml", "sd2", None, Some(yaml)), 96);
    assert_eq!(side("eps", "sd2", None, Some(&yaml.replace("\"v\"", "eps"))), 64);
    assert_eq!(side("sd1 that predicts v", "sd1", Some(("modelspec.prediction_type", "v")), None), 64);
    for (resolution, expected) in [("768x768", 96), ("1152x896", 127), ("768", 64), ("0x0", 64)] {
        assert_eq!(side("size", "sd2", Some(("modelspec.resolution", resolution)), None), expected, "{resolution}");
    }
}

#[test]
fn the_program_has_clips_vocabulary() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let file = place.path().join("model.safetensors");
    Notes::of("sd1").file().write(&file);
    let tokenizer = Tokenizer::new(open(&file).tokenizer(Part::TextEncoder), STABLE_DIFFUSION_1.pad_token, 77, 49408);
    let tokenizer = tokenizer.expect("a tokenizer");
    let texts = std::fs::read(fixtures().join("single-files/tokens.json")).expect("the fixture");
    let texts: Vec<(String, Vec<u32>)> = serde_json::from_slice(&texts).expect("texts and tokens");
    for (text, mut expected) in texts {
        expected.resize(77, 49407);
        assert_eq!(tokenizer.tokenize(&text).expect("tokens").ids, expected, "{text:?}");
    }
}

/// Changes the names of a single file's tensors, or what is in it; it is still the same model.
#[test]
fn single_files_differ_in_what_is_around_the_same_networks() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let notes = Notes::of("sd1");
    let plain = place.path().join("plain.safetensors");
    notes.file().write(&plain);
    let plain = open(&plain);
    let check = |what: &str, change: &dyn Fn(&mut File)| {
        let path = place.path().join(format!("{what}.safetensors"));
        let mut file = notes.file();
        change(&mut file);
        file.write(&path);
        let source = open(&path);
        for part in [Part::UNet, Part::Vae, Part::TextEncoder] {
            let [ours, theirs] = [&source, &plain].map(|source| source.tensors(part, &Device::Cpu).expect("tensors"));
            assert_eq!(source.config(part).to_json(), plain.config(part).to_json(), "{what} {part:?}");
            for (name, tensor) in &theirs.tensors {
                assert_equal(&format!("{what} {name}"), &ours.tensors[name], tensor);
            }
        }
    };
    let renamed = |file: &mut File, new: &dyn Fn(&str) -> String| {
        file.tensors = std::mem::take(&mut file.tensors).into_iter().map(|(name, data)| (new(&name), data)).collect();
    };
    check("state_dict", &|file| renamed(file, &|name| format!("state_dict.{name}")));
    check("without text_model", &|file| renamed(file, &|name| name.replace("transformer.text_model.", "transformer.")));
    check("vae", &|file| renamed(file, &|name| name.replace("first_stage_model.", "vae.")));
    check("position_ids", &|file| {
        let name = "cond_stage_model.transformer.text_model.embeddings.position_ids";
        file.add(name, Dtype::I64, &[1, 77], vec![0; 8 * 77]);
    });
    check("average", &|file| {
        // The average is the model, and what it was averaged of something else.
        let unet: Vec<_> =
            file.tensors.keys().filter(|name| name.starts_with("model.diffusion_model.")).cloned().collect();
        for name in unet {
            let data = file.tensors[&name].clone();
            let zeros = vec![0; data.2.len()];
            let inner = name.strip_prefix("model.").expect("it has it").replace('.', "");
            file.tensors.insert(format!("model_ema.{inner}"), data.clone());
            file.add(&name, data.0, &data.1, zeros);
        }
    });
    check("vae beside", &|file| {
        let mut vae = File::default();
        file.tensors.retain(|name, data| match name.strip_prefix("first_stage_model.") {
            Some(name) => {
                vae.tensors.insert(name.to_owned(), data.clone());
                false
            }
            None => true,
        });
        vae.write(&place.path().join("vae beside.vae.safetensors"));
    });
}

#[test]
fn weights_are_read_in_every_type_in_which_they_are_stored() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let notes = Notes::of("sd1");
    let name = "model.diffusion_model.time_embed.0.weight";
    let check = |what: &str, dtype: Dtype, bytes: &dyn Fn(usize) -> Vec<u8>, expected: f32, scale: Option<f32>| {
        let mut file = notes.file();
        let shape = notes.shape(name);
        file.add(name, dtype, &shape, bytes(shape.iter().product()));
        if let Some(scale) = scale {
            let name = name.replace(".weight", ".scale_weight");
            file.add(&name, Dtype::F32, &[], scale.to_le_bytes().to_vec());
        }
        let path = place.path().join(format!("{what}.safetensors"));
        file.write(&path);
        let tensors = open(&path).tensors(Part::UNet, &Device::Cpu).expect("tensors");
        let tensor = &tensors.tensors["time_embedding.linear_1.weight"];
        assert_eq!(tensor.dtype(), DType::F32);
        let numbers = tensor.flatten_all().and_then(|all| all.to_vec1::<f32>()).expect("numbers");
        assert!(numbers.iter().all(|&number| number == expected), "{what}: {}", numbers[0]);
    };
    let repeat = |bytes: &'static [u8]| move |count: usize| bytes.repeat(count);
    check("f32", Dtype::F32, &|count| 1.25f32.to_le_bytes().repeat(count), 1.25, None);
    check("bf16", Dtype::BF16, &|count| bf16::from_f32(1.25).to_le_bytes().repeat(count), 1.25, None);
    check("f64", Dtype::F64, &|count| 1.25f64.to_le_bytes().repeat(count), 1.25, None);
    // 0 0111 010: sign, exponent (7 is 2^0), fraction; 0 01111 01: the same (15 is 2^0).
    check("f8 e4m3", Dtype::F8_E4M3, &repeat(&[0x3a]), 1.25, None);
    check("f8 e5m2", Dtype::F8_E5M2, &repeat(&[0x3d]), 1.25, None);
    check("scaled f8", Dtype::F8_E4M3, &repeat(&[0x3a]), 5.0, Some(4.0));
}

#[test]
fn folders_hold_weights_under_many_names() {
    let plain = folder();
    let plain = open(plain.path());
    let check = |what: &str, change: &dyn Fn(&Path)| {
        let folder = folder();
        change(folder.path());
        let source = open(folder.path());
        for part in [Part::UNet, Part::Vae, Part::TextEncoder] {
            let [ours, theirs] = [&source, &plain].map(|source| source.tensors(part, &Device::Cpu).expect("tensors"));
            assert_eq!(ours.tensors.keys().collect::<Vec<_>>(), theirs.tensors.keys().collect::<Vec<_>>(), "{what}");
            for (name, tensor) in &theirs.tensors {
                assert_equal(&format!("{what} {name}"), &ours.tensors[name], tensor);
            }
        }
    };
    let rename = |folder: &Path, from: &str, to: &str| {
        std::fs::rename(folder.join(from), folder.join(to)).expect("it can be renamed");
    };
    for variant in ["fp16", "bf16", "non_ema", "ema-only"] {
        check(variant, &|folder| {
            for part in ["unet", "vae"] {
                let name = format!("{part}/diffusion_pytorch_model");
                rename(folder, &format!("{name}.safetensors"), &format!("{name}.{variant}.safetensors"));
            }
            let name = "text_encoder/model";
            rename(folder, &format!("{name}.safetensors"), &format!("{name}.{variant}.safetensors"));
        });
    }
    check("the average before what it was averaged of", &|folder| {
        let other = folder.join("unet/diffusion_pytorch_model.non_ema.safetensors");
        File::of(&[("conv_in.weight", &[1])]).write(&other);
    });
    for (what, index) in [
        ("shards", "diffusion_pytorch_model.safetensors.index.json"),
        ("shards of a variant", "diffusion_pytorch_model.safetensors.index.fp16.json"),
        ("shards of a variant, as transformers", "diffusion_pytorch_model.fp16.safetensors.index.json"),
    ] {
        check(what, &|folder| cut(&folder.join("unet"), index));
    }
}

/// Cuts the weights in `folder` into two files with an index.
fn cut(folder: &Path, index: &str) {
    let whole = folder.join("diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&whole).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let mut map = serde_json::Map::new();
    for half in 0..2 {
        let name = format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", half + 1);
        let own = tensors.tensors().into_iter().enumerate().filter(|(i, _)| i % 2 == half).map(|(_, tensor)| tensor);
        let own: Vec<_> = own.collect();
        map.extend(own.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
        safetensors::serialize_to_file(own, None, &folder.join(name)).expect("a file");
    }
    std::fs::write(folder.join(index), json!({ "weight_map": map }).to_string()).expect("a file");
    std::fs::remove_file(whole).expect("it was there");
}

#[test]
fn a_tokenizer_may_be_in_one_file_in_two_or_in_none() {
    let tokens = |folder: &Path| {
        let source = open(folder);
        let files = source.tokenizer(Part::TextEncoder);
        let tokenizer = Tokenizer::new(files, STABLE_DIFFUSION_1.pad_token, 77, 60_000).expect("a tokenizer");
        tokenizer.tokenize("a photo of a bird").expect("tokens").ids
    };
    let plain = folder();
    let at = plain.path().join("tokenizer");
    let before = tokens(plain.path());
    let vocab: Value = serde_json::from_slice(&std::fs::read(at.join("vocab.json")).expect("a file")).expect("JSON");
    let merges = std::fs::read_to_string(at.join("merges.txt")).expect("a file");
    let pairs: Vec<&str> = merges.lines().skip(1).collect();
    std::fs::remove_file(at.join("vocab.json")).expect("it was there");
    std::fs::remove_file(at.join("merges.txt")).expect("it was there");
    for merges in [json!(pairs), pairs.iter().map(|pair| json!(pair.split(' ').collect::<Vec<_>>())).collect()] {
        let content = json!({ "model": { "type": "BPE", "vocab": vocab, "merges": merges } });
        std::fs::write(at.join("tokenizer.json"), content.to_string()).expect("a file");
        assert_eq!(tokens(plain.path()), before);
    }
    std::fs::remove_dir_all(&at).expect("it was there");
    assert_eq!(tokens(plain.path())[..6], [49406, 320, 1125, 539, 320, 3329], "CLIP's own");
    // The map is right where both files tell of the padding.
    std::fs::create_dir(&at).expect("a folder");
    std::fs::write(at.join("tokenizer_config.json"), r#"{"pad_token": "<|endoftext|>"}"#).expect("a file");
    std::fs::write(at.join("special_tokens_map.json"), r#"{"pad_token": "!"}"#).expect("a file");
    assert_eq!(tokens(plain.path())[6..9], [49407, 0, 0]);
    std::fs::write(at.join("added_tokens.json"), r#"{"<bird>": 49408}"#).expect("a file");
    let source = open(plain.path());
    let files = source.tokenizer(Part::TextEncoder);
    let tokenizer = Tokenizer::new(files, STABLE_DIFFUSION_1.pad_token, 77, 60_000).expect("a tokenizer");
    assert_eq!(tokenizer.tokenize("a <bird>").expect("tokens").ids[..4], [49406, 320, 49408, 49407]);
}

#[test]
fn a_model_is_found_through_what_people_point_at() {
    let top = tempfile::tempdir().expect("a temporary folder");
    let model = folder();
    let cache = top.path().join("models--somebody--model");
    std::fs::create_dir_all(cache.join("snapshots")).expect("a folder");
    std::fs::create_dir_all(cache.join("refs")).expect("a folder");
    std::fs::write(cache.join("refs/main"), "abc\n").expect("a file");
    std::os::unix::fs::symlink(model.path(), cache.join("snapshots/abc")).expect("a link");
    std::fs::create_dir(cache.join("snapshots/newer")).expect("a folder");
    let only = top.path().join("only");
    std::fs::create_dir(&only).expect("a folder");
    Notes::of("sd1").file().write(&only.join("some.safetensors"));
    let shown = |path: &Path| path.display().to_string();
    for path in [
        shown(model.path()),
        shown(&model.path().join("model_index.json")),
        shown(&model.path().join("unet/diffusion_pytorch_model.safetensors")),
        shown(&model.path().join("vae")),
        format!("\"{}\"", shown(model.path())),
        format!("file://{}/ ", shown(model.path())),
        shown(&cache),
        shown(&only),
        shown(&only.join("some.safetensors")),
    ] {
        let entry = catalog::look_up(&path, &Places::default()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(entry.problem(), None, "{path}");
        open(&entry.model.path);
    }
    // By name, with and without the ending.
    for name in ["some", "some.safetensors"] {
        let model = catalog::find(name, &Places::of([only.clone()])).expect("a model");
        assert_eq!((model.name.as_str(), model.path), ("some", only.join("some.safetensors")));
    }
    File::of(&[("lora_unet_x.lora_up.weight", &[1])]).write(&only.join("a-lora.safetensors"));
    let table = catalog::table(&Places::of([only]), None);
    let rows: Vec<_> = table.iter().map(|entry| (entry.model.name.as_str(), entry.problem().is_none())).collect();
    assert_eq!(rows, [("a-lora", false), ("some", true)], "a LoRA is no base model");
}

#[test]
fn what_is_no_base_model_is_named() {
    const UNET: &str = "model.diffusion_model.input_blocks.0.0.weight";
    const ADDED: &str = "model.diffusion_model.label_emb.0.0.weight";
    let place = tempfile::tempdir().expect("a temporary folder");
    let check = |name: &str, content: &[u8], expected: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, content).expect("a file");
        let refusal = refusal(&path);
        assert!(refusal.contains(expected), "{name}: {refusal}");
    };
    let html = b"<!DOCTYPE html><html>Sign in</html>";
    check("page.safetensors", html, "this is a web page that was saved under the name of a model");
    check("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "only a pointer of Git LFS");
    check("text.safetensors", b"Entry not found", "this is a text, not a model");
    check("json.safetensors", b"{\"error\": \"no\"}", "this is a text, not a model");
    check("empty.safetensors", b"", "this file is empty");
    check("zip.safetensors", b"PK\x03\x04....", "pickled checkpoints can run code");
    check("pickle.safetensors", &[0x80, 2, b'}', b'q'], "pickled checkpoints can run code");
    check("model.ckpt", b"anything", "pickled checkpoints can run code");
    check("model.pt", b"anything", "pickled checkpoints can run code");
    check("model.bin", b"anything", "pickled checkpoints can run code");
    check("gguf.safetensors", b"GGUF\x03\0\0\0", "GGUF files cannot be trained");
    check("model.gguf", b"anything", "GGUF files cannot be trained");
    check("model.onnx", b"anything", "ONNX files cannot be trained");
    check("model.msgpack", b"anything", "Flax files cannot be read");
    check("model.safetensors.part", b"anything", "its download has not ended");
    check("short.safetensors", &[200, 0, 0, 0, 0, 0, 0, 0, b'{'], "not a readable safetensors file");
    check("nothing.safetensors", b"\x02\0\0\0\0\0\0\0{}", "this file holds no tensors");
    check("absurd.safetensors", &[0xff; 64], "not a readable safetensors file");

    let check = |name: &str, tensors: &[(&str, &[usize])], expected: &str| {
        let path = place.path().join(format!("{name}.safetensors"));
        File::of(tensors).write(&path);
        let refusal = refusal(&path);
        assert!(refusal.contains(expected), "{name}: {refusal}");
    };
    check("lora", &[("lora_unet_down.lora_down.weight", &[1])], "this is a LoRA, which cannot be used for edits");
    check("lora of peft", &[("unet.down.lora_A.weight", &[1])], "this is a LoRA");
    check("controlnet", &[("control_model.input_blocks.0.0.weight", &[1])], "this is a ControlNet");
    check("ip-adapter", &[("ip_adapter.1.to_k_ip.weight", &[1])], "this is an IP-Adapter");
    check("inversion", &[("emb_params", &[2, 8])], "this is a textual inversion");
    check("inversion of xl", &[("clip_l", &[2, 8]), ("clip_g", &[2, 8])], "this is a textual inversion");
    check("flux", &[("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", &[1])], "this is FLUX");
    check("sd3", &[("model.diffusion_model.joint_blocks.0.x.weight", &[1])], "this is Stable Diffusion 3");
    check("video", &[(UNET, &[8, 4, 3, 3]), ("model.diffusion_model.x.time_stack.0.w", &[1])], "a model for videos");
    check("depth", &[(UNET, &[8, 5, 3, 3])], "a model that also takes a depth map");
    check("upscaler", &[(UNET, &[8, 7, 3, 3])], "a model that enlarges pictures");
    check("instruct", &[(UNET, &[8, 8, 3, 3])], "this is InstructPix2Pix");
    check("refiner", &[(UNET, &[8, 4, 3, 3]), (ADDED, &[8, 2560])], "this is an SDXL refiner");
    check("unclip", &[(UNET, &[8, 4, 3, 3]), (ADDED, &[8, 1536])], "works from pictures or in two stages");
    check("playground", &[(UNET, &[8, 4, 3, 3]), ("edm_mean", &[4])], "this is Playground");
    check("cosxl", &[(UNET, &[8, 4, 3, 3]), ("edm_vpred.sigma_max", &[1])], "this is CosXL");
    check("unet", &[("input_blocks.0.0.weight", &[1]), ("output_blocks.0.0.w", &[1])], "this is a U-Net alone");
    check("vae", &[("encoder.conv_in.weight", &[1]), ("decoder.conv_in.weight", &[1])], "this is a VAE alone");
    check("text", &[("text_model.embeddings.token_embedding.weight", &[1])], "this is a text encoder alone");
    check("esrgan", &[("conv_first.weight", &[1]), ("body.0.weight", &[1])], "a model that enlarges pictures");
    check("other", &[("something.weight", &[1])], "its tensors have other names, such as something.weight");
    check("half a unet", &[(UNET, &[8, 4, 3, 3])], "some of its tensors are missing");
}

#[test]
fn a_single_file_without_a_part_says_which() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let check = |without: &str, expected: &str| {
        let path = place.path().join("model.safetensors");
        let mut file = Notes::of("sd1").file();
        file.tensors.retain(|name, _| !name.starts_with(without));
        file.write(&path);
        let refusal = refusal(&path);
        assert!(refusal.contains(expected), "{refusal}");
    };
    check("first_stage_model.", "put its file beside this one and call it model.vae.safetensors");
    check("cond_stage_model.", "has no text encoder");
    check("model.diffusion_model.output_blocks.7", "some of its tensors are missing");
}

#[test]
fn folders_that_are_no_base_model_are_named() {
    let check = |change: &dyn Fn(&Path), expected: &str| {
        let folder = folder();
        change(folder.path());
        let refusal = refusal(folder.path());
        assert!(refusal.contains(expected), "{refusal}");
    };
    let class = |name: &'static str| {
        move |folder: &Path| {
            std::fs::write(folder.join("model_index.json"), json!({ "_class_name": name }).to_string())
                .expect("a file");
        }
    };
    check(&class("StableDiffusion3Pipeline"), "this is Stable Diffusion 3");
    check(&class("FluxPipeline"), "this is FLUX");
    check(&class("StableDiffusionXLImg2ImgPipeline"), "this is an SDXL refiner");
    check(&class("StableDiffusionInstructPix2PixPipeline"), "this is InstructPix2Pix");
    check(&class("StableDiffusionUpscalePipeline"), "a model that enlarges pictures");
    check(&class("OnnxStableDiffusionPipeline"), "this is an ONNX model");
    let only = |name: &'static str| {
        move |folder: &Path| {
            std::fs::remove_file(folder.join("unet/diffusion_pytorch_model.safetensors")).expect("it was there");
            std::fs::write(folder.join("unet").join(name), "").expect("a file");
        }
    };
    check(&only("diffusion_pytorch_model.bin"), "has only pickled weights");
    check(&only("diffusion_flax_model.msgpack"), "has only weights for Flax");
    check(&only("model.onnx"), "has only weights for ONNX");
    check(&|folder| std::fs::remove_dir_all(folder.join("vae")).expect("it was there"), "vae: is missing");
    check(
        &|folder| std::fs::rename(folder.join("unet"), folder.join("transformer")).expect("it was there"),
        "a model with a transformer in place of a U-Net",
    );
    check(
        &|folder| {
            let file = folder.join("unet/diffusion_pytorch_model.safetensors");
            File::of(&[("conv_in.weight.absmax", &[1]), ("conv_in.weight", &[1])]).write(&file);
        },
        "packed by bitsandbytes",
    );
    let empty = tempfile::tempdir().expect("a temporary folder");
    assert!(refusal(empty.path()).contains("is not a model; choose a .safetensors file, or a diffusers folder"));
    let part = folder();
    let alone = part.path().join("alone");
    std::fs::rename(part.path().join("unet"), &alone).expect("it was there");
    std::fs::write(alone.join("diffusion_pytorch_model.fp16.safetensors"), "").expect("a file");
    assert!(refusal(&alone).contains("is only a part of a model"));
}

/// Extra tensors of any kind, as merges and trainers leave them, do not matter to an edit.
#[test]
fn tensors_that_the_network_does_not_use_are_left_out() {
    let plain = folder();
    let other = folder();
    let file = other.path().join("unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&file).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let mut more = File::default();
    for (name, view) in tensors.tensors() {
        more.add(&name, view.dtype(), view.shape(), view.data().to_vec());
    }
    more.add("conv_in.lora_scale", Dtype::F32, &[3], vec![0; 12]);
    more.add("number_of_updates", Dtype::I64, &[], vec![0; 8]);
    more.add("mask", Dtype::BOOL, &[5], vec![1; 5]);
    more.add("zzz.nan", Dtype::F32, &[1], f32::NAN.to_le_bytes().to_vec());
    more.write(&file);
    assert!(edited(plain.path(), &[]) == edited(other.path(), &[]));
}

/// Numbers that depend on nothing but how many came before.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Loads the model at `path` as an edit does; whether that failed does not matter, but it must not panic.
fn load(path: &Path) {
    if let Ok(source) = Source::open(path) {
        let _ = BaseModel::read(source, String::new(), &Device::Cpu);
    }
}

/// Does `work` and says with what it panicked, if it did.
fn without_panic(what: &str, work: impl FnOnce()) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    assert!(result.is_ok(), "a panic with {what}");
}

#[test]
fn a_configuration_with_any_value_in_any_place_is_read_or_refused() {
    let values =
        ["0", "1", "3", "-1", "1e30", "4294967297", "null", "true", "\"x\"", "[]", "[0]", "[4, 0]", "{}", "[[]]"];
    for model in ["small-sd1", "small-sdxl"] {
        let original = fixtures().join(model).join("model");
        let place = tempfile::tempdir().expect("a temporary folder");
        for part in ["unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"] {
            if original.join(part).is_dir() {
                std::fs::create_dir(place.path().join(part)).expect("a folder");
                for file in std::fs::read_dir(original.join(part)).expect("the fixture").flatten() {
                    std::fs::copy(file.path(), place.path().join(part).join(file.file_name())).expect("a copy");
                }
            }
        }
        for file in
            ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"]
        {
            let path = place.path().join(file);
            let text = std::fs::read_to_string(&path).expect("a configuration");
            let config: Value = serde_json::from_str(&text).expect("JSON");
            for key in config.as_object().expect("an object").keys() {
                for value in values {
                    let mut changed = config.clone();
                    changed[key] = serde_json::from_str(value).expect("JSON");
                    std::fs::write(&path, changed.to_string()).expect("a file");
                    without_panic(&format!("{model} {file} {key} {value}"), || load(place.path()));
                }
            }
            std::fs::write(&path, &text).expect("a file");
        }
    }
}

#[test]
fn a_header_with_any_change_is_read_or_refused() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let path = place.path().join("model.safetensors");
    let notes = Notes::of("sd1");
    let mut file = notes.file();
    // A small vocabulary, so that a file is quickly written.
    let vocabulary = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
    file.add(vocabulary, Dtype::F16, &[4, 768], vec![0; 2 * 4 * 768]);
    file.write(&path);
    let whole = std::fs::read(&path).expect("the file");
    let header = u64::from_le_bytes(whole[..8].try_into().expect("8 bytes")) as usize;
    let mut chance = Chance(7);
    for round in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..=chance.below(3) {
            let at = chance.below(8 + header);
            // Digits and names, or anything.
            bytes[at] = match chance.below(3) {
                0 => b'0' + chance.below(10) as u8,
                1 => bytes[chance.below(8 + header)],
                _ => chance.below(256) as u8,
            };
        }
        if chance.below(10) == 0 {
            bytes.truncate(chance.below(bytes.len()));
        }
        std::fs::write(&path, &bytes).expect("a file");
        without_panic(&format!("round {round}"), || load(&path));
    }
}
