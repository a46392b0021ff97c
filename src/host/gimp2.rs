//! GIMP 2.10: registers the procedure `plug-in-imagic-edit`, reads its arguments and runs it with or without the
//! dialog.

mod form;
mod library;

use crate::catalog::{self, Places};
use crate::error::{Error, Result};
use crate::host::gimp::ffi::{c_string, guard};
use crate::host::gimp::library::{Image, Layer};
use crate::host::gimp::session::Session;
use crate::host::gimp::{control, procedure};
use crate::host::language::translate;
use crate::host::last_values::last_values;
use crate::host::{gimp2_sys as sys, loader};
use crate::params::{Affects, BUILTIN_MODEL, Domain, PARAMS, Params, Slot};
use crate::text::text;
use form::Fields;
use library::Gimp2;
use serde_json::{Map, Value};
use std::ffi::{CStr, c_char, c_int};
use std::slice;

/// What GIMP's dialogs are made with; it needs libgimp, GTK, GEGL and babl, which are loaded with it.
const LIBRARY: &CStr = if cfg!(windows) {
    c"libgimpui-2.0-0.dll"
} else if cfg!(target_os = "macos") {
    c"libgimpui-2.0.0.dylib"
} else {
    c"libgimpui-2.0.so.0"
};

/// Arguments before those from the table: run mode, image, drawable.
const FIXED_ARGUMENTS: usize = 3;

static PLUG_IN: sys::GimpPlugInInfo =
    sys::GimpPlugInInfo { init_proc: None, quit_proc: None, query_proc: Some(query), run_proc: Some(run) };

/// Serves GIMP until it needs us no more and returns the exit status.
///
/// # Safety
/// `argv` holds the `argc` C strings with which GIMP started this process; they live as long as it does.
pub unsafe fn main(argc: c_int, argv: *mut *mut c_char) -> Result<c_int> {
    loader::open(LIBRARY)?;
    // SAFETY: the caller's promise; the table of callbacks is static.
    Ok(unsafe { sys::gimp_main(&PLUG_IN, argc, argv) })
}

/// Arguments of the procedure that are parameters of their own; the others go into `settings`.
fn arguments() -> impl Iterator<Item = &'static crate::params::Param> {
    PARAMS.iter().filter(|param| !param.advanced && param.affects != Affects::Parameters)
}

extern "C" fn query() {
    guard((), || {
        use sys::GimpPDBArgType as Type;
        let modes = "RUN-INTERACTIVE (0), RUN-NONINTERACTIVE (1), RUN-WITH-LAST-VALS (2)";
        let mut inputs = vec![
            definition(Type::GIMP_PDB_INT32, "run-mode", modes),
            definition(Type::GIMP_PDB_IMAGE, "image", "The image"),
            definition(Type::GIMP_PDB_DRAWABLE, "drawable", "The layer to edit"),
        ];
        for param in arguments() {
            let (kind, range) = match param.domain {
                Domain::Text => (Type::GIMP_PDB_STRING, String::new()),
                Domain::Integer { min, max } => (Type::GIMP_PDB_INT32, format!(" ({min} to {max})")),
                Domain::Real { min, max } => (Type::GIMP_PDB_FLOAT, format!(" ({min} to {max})")),
                Domain::Switch => (Type::GIMP_PDB_INT32, " (FALSE (0) or TRUE (1))".to_owned()),
                Domain::Choice { options } => {
                    let names: Vec<&str> = options.iter().map(|(name, _)| *name).collect();
                    (Type::GIMP_PDB_STRING, format!(" ({})", names.join(" or ")))
                }
            };
            inputs.push(definition(kind, param.id, &format!("{}{range}: {}", param.label, param.help)));
        }
        let advanced: Vec<_> = PARAMS.iter().filter(|param| param.advanced).map(|param| param.id).collect();
        let settings = format!(
            "JSON object with other parameters, for example {{\"guidance\": 3}}; what it leaves out, or all of it when \
             the text is empty, comes from the model's preset. Parameters: {}",
            advanced.join(", ")
        );
        inputs.push(definition(Type::GIMP_PDB_STRING, SETTINGS, &settings));
        let outputs = [definition(Type::GIMP_PDB_LAYER, "layer", "The new layer")];
        let help = format!(
            "Tunes a text-to-image model to the layer (Imagic, Kawar et al. 2023) and puts the edited picture into a \
             new layer above it. An empty model means {BUILTIN_MODEL}. The tuned model is kept: another eta or seed \
             takes only the last stage. RUN-WITH-LAST-VALS takes the values of the last edit and ignores the arguments."
        );
        let (summary, help) = (c_string(procedure::SUMMARY.key), c_string(&help));
        // SAFETY: libgimp copies everything before it returns; the counts are those of the slices.
        unsafe {
            sys::gimp_install_procedure(
                procedure::NAME.as_ptr(),
                summary.as_ptr(),
                help.as_ptr(),
                procedure::AUTHORS.as_ptr(),
                procedure::AUTHORS.as_ptr(),
                procedure::YEAR.as_ptr(),
                procedure::MENU_LABEL.as_ptr(),
                procedure::IMAGE_TYPES.as_ptr(),
                sys::GimpPDBProcType::GIMP_PLUGIN,
                inputs.len() as c_int,
                outputs.len() as c_int,
                inputs.as_ptr(),
                outputs.as_ptr(),
            );
            sys::gimp_plugin_menu_register(procedure::NAME.as_ptr(), procedure::MENU_PATH.as_ptr());
            let (by_name, icon) = (sys::GimpIconType::GIMP_ICON_TYPE_ICON_NAME, procedure::ICON.as_ptr());
            sys::gimp_plugin_icon_register(procedure::NAME.as_ptr(), by_name, icon.cast());
        }
    });
}

/// The last argument: every parameter that is not an argument of its own, as JSON.
const SETTINGS: &str = "settings";

/// An argument or result of a procedure. GIMP asks for them in a process of its own, so their texts are never freed.
fn definition(kind: sys::GimpPDBArgType, name: &str, description: &str) -> sys::GimpParamDef {
    let [name, description] = [name, description].map(|text| c_string(text).into_raw());
    sys::GimpParamDef { type_: kind, name, description }
}

extern "C" fn run(
    _name: *const c_char,
    count: c_int,
    values: *const sys::GimpParam,
    result_count: *mut c_int,
    results: *mut *mut sys::GimpParam,
) {
    // SAFETY: libgimp hands over `count` values that live until `run` returns.
    let outcome = guard(Err(procedure::panicked()), || edit(unsafe { slice::from_raw_parts(values, count as usize) }));
    use sys::{_GimpParamData as Data, GimpPDBArgType as Type, GimpPDBStatusType as Status};
    let value = |type_, data| sys::GimpParam { type_, data };
    let status = |status| value(Type::GIMP_PDB_STATUS, Data { d_status: status });
    let answer = match outcome {
        Ok(layer) => {
            vec![status(Status::GIMP_PDB_SUCCESS), value(Type::GIMP_PDB_LAYER, Data { d_layer: layer.0 })]
        }
        Err(Error::Cancelled) => vec![status(Status::GIMP_PDB_CANCEL)],
        Err(error) => {
            let text = c_string(&translate(&error.text())).into_raw();
            vec![status(Status::GIMP_PDB_EXECUTION_ERROR), value(Type::GIMP_PDB_STRING, Data { d_string: text })]
        }
    };
    // libgimp reads the answer after we have returned, and the process ends after that.
    let answer = answer.leak();
    // SAFETY: both pointers are libgimp's variables for the answer.
    unsafe {
        *result_count = answer.len() as c_int;
        *results = answer.as_mut_ptr();
    }
}

/// One call of the procedure.
fn edit(values: &[sys::GimpParam]) -> Result<Layer> {
    let [mode, image, drawable, arguments @ ..] = values else {
        return Err(Error::Host(text!(
            "{count} arguments came, at least {min} are needed",
            count = values.len(),
            min = FIXED_ARGUMENTS
        )));
    };
    // SAFETY: GIMP has checked the arguments' types against those that `query` registered; this is its thread.
    let (gimp, mode, image, drawable) = unsafe {
        let mode = sys::GimpRunMode(mode.data.d_int32 as u32);
        (Gimp2::on_this_thread(), mode, Image(image.data.d_image), Layer(drawable.data.d_drawable))
    };
    let session = Session::open(gimp, image, drawable)?;
    let params = match mode {
        sys::GimpRunMode::GIMP_RUN_INTERACTIVE => {
            let fields = Fields::new(&session);
            return control::run(session, Box::new(fields));
        }
        sys::GimpRunMode::GIMP_RUN_WITH_LAST_VALS => last_values().ok_or_else(procedure::no_last_values)?,
        _ => params_of(arguments, &session.places)?,
    };
    session.edit_and_wait(&params)
}

/// The parameters in the arguments after the fixed ones.
fn params_of(values: &[sys::GimpParam], places: &Places) -> Result<Params> {
    let (settings, own) = values.split_last().ok_or_else(|| Error::Host(text!("the arguments are missing")))?;
    let mut given = settings_of(&text(settings))?;
    for (param, value) in arguments().zip(own) {
        let value = match param.slot(&Params::paper()) {
            Slot::Text(_) => Value::from(text(value)),
            // SAFETY: registered as a 32-bit integer, and checked by GIMP.
            Slot::Integer(_) | Slot::Switch(_) => Value::from(unsafe { value.data.d_int32 }),
            // SAFETY: registered as a float, and checked by GIMP.
            Slot::Real(_) => Value::from(unsafe { value.data.d_float }),
        };
        // JSON has no NaN or infinity; they become null, which no number's range holds.
        given.insert(param.id.to_owned(), value);
    }
    Ok(catalog::params_of(&given, places)?.0)
}

/// The JSON object of the argument `settings`.
fn settings_of(text: &str) -> Result<Map<String, Value>> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let settings: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
        Error::Parameter(text!(
            "settings is not a JSON object like {{\"guidance\": 3}}: {error}",
            error = error.to_string()
        ))
    })?;
    match arguments().find(|param| settings.contains_key(param.id)) {
        Some(param) => {
            Err(Error::Parameter(text!("settings names {id}; give {id} as the argument {id}", id = param.id)))
        }
        None => Ok(settings),
    }
}

/// The text in an argument that was registered as a string.
fn text(value: &sys::GimpParam) -> String {
    // SAFETY: checked by GIMP against the registered type; null or a C string that lives until `run` returns.
    unsafe {
        let text = value.data.d_string;
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_exists_in_the_real_libraries() {
        if let Err(error) = loader::open(LIBRARY) {
            assert!(std::env::var("IMAGIC_TEST_GIMP").as_deref() != Ok("1"), "{error}");
            println!("skipped: {error}");
            return;
        }
        let functions = || sys::FUNCTIONS.iter().chain(crate::host::gimp_sys::FUNCTIONS);
        let missing: Vec<_> = functions().filter(|name| loader::Symbol::new(name).find().is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(functions().count() > 100);
    }

    #[test]
    fn settings_are_a_json_object_without_the_arguments() {
        assert!(settings_of(" ").expect("no settings").is_empty());
        assert_eq!(settings_of("{\"guidance\": 3}").expect("one setting").len(), 1);
        for wrong in ["3", "{", "{\"eta\": 1}"] {
            assert!(settings_of(wrong).is_err(), "{wrong}");
        }
    }
}
