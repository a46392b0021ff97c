//! GIMP 3: registers the procedure `plug-in-imagic-edit` as a GObject plug-in, reads its arguments and runs it with or
//! without the dialog.

mod config;
mod form;
mod library;

use crate::catalog::{self, Places};
use crate::error::{Error, Result};
use crate::host::gimp::ffi::{c_string, guard};
use crate::host::gimp::library::Layer;
use crate::host::gimp::session::Session;
use crate::host::gimp::{control, procedure};
use crate::host::installed::places;
use crate::host::language::translate;
use crate::host::{gimp3_sys as sys, loader, report};
use crate::params::{BUILTIN_MODEL, DEFAULT_PRESET, Domain, PARAMS, Params, Preset, Slot};
use crate::text::text;
use config::{Config, property};
use form::{Fields, KEYS};
use library::Gimp3;
use serde_json::Value;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;

/// What GIMP's dialogs are made with; it needs libgimp, GTK, GEGL and babl, which are loaded with it.
const LIBRARY: &CStr = if cfg!(windows) {
    c"libgimpui-3.0-0.dll"
} else if cfg!(target_os = "macos") {
    c"libgimpui-3.0.0.dylib"
} else {
    c"libgimpui-3.0.so.0"
};
/// Offered when one drawable is selected: <libgimp/gimpprocedure.h>, GIMP_PROCEDURE_SENSITIVE_DRAWABLE.
const ONE_DRAWABLE: c_int = 1;
/// Read and written from outside: <gobject/gparam.h>, G_PARAM_READWRITE.
const ARGUMENT: sys::GParamFlags = sys::GParamFlags(3);

/// Serves GIMP until it needs us no more and returns the exit status.
///
/// # Safety
/// `argv` holds the `argc` C strings with which GIMP started this process; they live as long as it does.
pub unsafe fn main(argc: c_int, argv: *mut *mut c_char) -> Result<c_int> {
    loader::open(LIBRARY)?;
    // SAFETY: the parent class is asked how large it is, and ours adds nothing; `class_init` gets a class of that size;
    // the rest is the caller's promise.
    unsafe {
        let parent = sys::gimp_plug_in_get_type();
        let mut sizes: sys::GTypeQuery = std::mem::zeroed();
        sys::g_type_query(parent, &mut sizes);
        let plug_in = sys::g_type_register_static_simple(
            parent,
            c"ImagicEdit".as_ptr(),
            sizes.class_size,
            Some(class_init),
            sizes.instance_size,
            None,
            sys::GTypeFlags(0),
        );
        Ok(sys::gimp_main(plug_in, argc, argv))
    }
}

unsafe extern "C" fn class_init(class: *mut c_void, _data: *mut c_void) {
    let class = class.cast::<sys::GimpPlugInClass>();
    // SAFETY: GObject hands over a class of the size that `main` registered, which begins as libgimp's.
    unsafe {
        (*class).query_procedures = Some(query_procedures);
        (*class).create_procedure = Some(create_procedure);
        // Our translations are no gettext files; without this GIMP complains that their folder is missing.
        (*class).set_i18n = None;
    }
}

unsafe extern "C" fn query_procedures(_plug_in: *mut sys::GimpPlugIn) -> *mut sys::GList {
    // SAFETY: libgimp frees the list and the copy of the name.
    guard(null_mut(), || unsafe { sys::g_list_append(null_mut(), sys::g_strdup(procedure::NAME.as_ptr()).cast()) })
}

unsafe extern "C" fn create_procedure(plug_in: *mut sys::GimpPlugIn, name: *const c_char) -> *mut sys::GimpProcedure {
    // SAFETY: libgimp hands over its plug-in and a C string.
    guard(null_mut(), || unsafe {
        if CStr::from_ptr(name) == procedure::NAME { new_procedure(plug_in) } else { null_mut() }
    })
}

/// # Safety
/// `plug_in` is the object with which libgimp called us, on its thread.
unsafe fn new_procedure(plug_in: *mut sys::GimpPlugIn) -> *mut sys::GimpProcedure {
    let help = text!(
        "Tunes a text-to-image model to the layer (Imagic, Kawar et al. 2023) and puts the edited picture into a new \
         layer above it. An empty model means {model}. The tuned model is kept: another eta or seed takes only the \
         last stage. Unless preset is custom, all arguments from {first} on come from it.",
        model = BUILTIN_MODEL,
        first = PARAMS.iter().find(|param| param.is_of_preset()).expect("there are some").id
    );
    let (summary, help) = (c_string(&translate(&procedure::SUMMARY)), c_string(&translate(&help)));
    let (name, authors, year) = (procedure::NAME.as_ptr(), procedure::AUTHORS.as_ptr(), procedure::YEAR.as_ptr());
    let plug_in_type = sys::GimpPDBProcType::GIMP_PDB_PROC_TYPE_PLUGIN;
    // SAFETY: the caller's promise; libgimp copies every text before it returns; our `run` needs no data.
    let procedure = unsafe {
        let procedure = sys::gimp_image_procedure_new(plug_in, name, plug_in_type, Some(run), null_mut(), None);
        sys::gimp_procedure_set_image_types(procedure, procedure::IMAGE_TYPES.as_ptr());
        sys::gimp_procedure_set_sensitivity_mask(procedure, ONE_DRAWABLE);
        sys::gimp_procedure_set_menu_label(procedure, procedure::MENU_LABEL.as_ptr());
        sys::gimp_procedure_set_icon_name(procedure, procedure::ICON.as_ptr());
        sys::gimp_procedure_add_menu_path(procedure, procedure::MENU_PATH.as_ptr());
        sys::gimp_procedure_set_documentation(procedure, summary.as_ptr(), help.as_ptr(), procedure::NAME.as_ptr());
        sys::gimp_procedure_set_attribution(procedure, authors, authors, year);
        procedure
    };
    let defaults = defaults(&places());
    for param in PARAMS {
        let (name, label) = (property(param.id), c_string(&KEYS.with_key(&param.label)));
        let (name, label, help) = (name.as_ptr(), label.as_ptr(), c_string(&translate(&report::help(param))));
        let help = help.as_ptr();
        // SAFETY: the procedure is new; the texts are copied.
        unsafe {
            match (param.domain, param.slot(&defaults)) {
                (Domain::Integer { min, max }, Slot::Integer(value)) => {
                    let (min, max, value) = (min as c_int, max as c_int, value as c_int);
                    sys::gimp_procedure_add_int_argument(procedure, name, label, help, min, max, value, ARGUMENT);
                }
                (Domain::Real { min, max }, Slot::Real(value)) => {
                    sys::gimp_procedure_add_double_argument(procedure, name, label, help, min, max, value, ARGUMENT);
                }
                (Domain::Switch, Slot::Switch(on)) => {
                    let on = sys::gboolean::from(on);
                    sys::gimp_procedure_add_boolean_argument(procedure, name, label, help, on, ARGUMENT);
                }
                (Domain::Choice { options }, Slot::Text(value)) => {
                    let (choice, value) = (sys::gimp_choice_new(), c_string(value));
                    for (number, (name, label)) in options.iter().enumerate() {
                        let (name, label) = (c_string(name), c_string(&translate(label)));
                        sys::gimp_choice_add(choice, name.as_ptr(), number as c_int, label.as_ptr(), c"".as_ptr());
                    }
                    // The procedure takes the choice over.
                    let value = value.as_ptr();
                    sys::gimp_procedure_add_choice_argument(procedure, name, label, help, choice, value, ARGUMENT);
                }
                (Domain::Text, Slot::Text(value)) => {
                    let value = c_string(value);
                    sys::gimp_procedure_add_string_argument(procedure, name, label, help, value.as_ptr(), ARGUMENT);
                }
                _ => unreachable!("a test checks that every row's domain fits its field"),
            }
        }
    }
    let (name, label) = (c"layer".as_ptr(), c_string(&translate(&text!("The new layer"))));
    let label = label.as_ptr();
    // SAFETY: as above. After a stop there is no layer.
    unsafe { sys::gimp_procedure_add_layer_return_value(procedure, name, label, label, 1, ARGUMENT) };
    procedure
}

unsafe extern "C" fn run(
    procedure: *mut sys::GimpProcedure,
    mode: sys::GimpRunMode,
    image: *mut sys::GimpImage,
    drawables: *mut *mut sys::GimpDrawable,
    config: *mut sys::GimpProcedureConfig,
    _data: *mut c_void,
) -> *mut sys::GimpValueArray {
    // SAFETY: libgimp hands over its objects and a list that ends with null, on its thread.
    let outcome = guard(Err(procedure::panicked()), || unsafe { edit(procedure, mode, image, drawables, config) });
    // SAFETY: libgimp takes over the values and the error.
    guard(null_mut(), || unsafe { answer(procedure, outcome) })
}

/// # Safety
/// `procedure` is the one that runs.
unsafe fn answer(procedure: *mut sys::GimpProcedure, outcome: Result<Layer>) -> *mut sys::GimpValueArray {
    use sys::GimpPDBStatusType as Status;
    // SAFETY: the caller's promise; libgimp owns what it gets; value 1 is the layer that `new_procedure` announced.
    unsafe {
        let values = |status, error| sys::gimp_procedure_new_return_values(procedure, status, error);
        match outcome {
            Ok(layer) => {
                let values = values(Status::GIMP_PDB_SUCCESS, null_mut());
                sys::g_value_set_object(sys::gimp_value_array_index(values, 1), library::object(layer));
                values
            }
            Err(Error::Cancelled) => values(Status::GIMP_PDB_CANCEL, null_mut()),
            Err(error) => {
                let text = c_string(&translate(&error.text()));
                // GIMP_PLUG_IN_ERROR has one code: 0, failed.
                let error = sys::g_error_new_literal(sys::gimp_plug_in_error_quark(), 0, text.as_ptr());
                values(Status::GIMP_PDB_EXECUTION_ERROR, error)
            }
        }
    }
}

/// One call of the procedure.
///
/// # Safety
/// The objects are those with which libgimp called `run`, on its thread; `drawables` ends with null.
unsafe fn edit(
    procedure: *mut sys::GimpProcedure,
    mode: sys::GimpRunMode,
    image: *mut sys::GimpImage,
    drawables: *mut *mut sys::GimpDrawable,
    config: *mut sys::GimpProcedureConfig,
) -> Result<Layer> {
    // SAFETY: the caller's promise.
    let (gimp, image, config) =
        unsafe { (Gimp3::on_this_thread(), library::number_of_image(image), Config::from_object(config)) };
    // SAFETY: the caller's promise.
    let session = Session::open(gimp, image, unsafe { only(drawables) }?)?;
    let given = config.params()?;
    let params = match mode {
        sys::GimpRunMode::GIMP_RUN_INTERACTIVE => {
            // SAFETY: the caller's promise.
            let fields = unsafe { Fields::new(procedure, config, &session) };
            return control::run(session, Box::new(fields));
        }
        sys::GimpRunMode::GIMP_RUN_WITH_LAST_VALS if given.prompt.trim().is_empty() => {
            return Err(procedure::no_last_values());
        }
        sys::GimpRunMode::GIMP_RUN_WITH_LAST_VALS => procedure::params_of(&given, &session.places)?,
        _ => {
            let params = procedure::params_of(&given, &session.places)?;
            no_argument_is_ignored(&given, &params, &session.places)?;
            params
        }
    };
    session.edit_and_wait(&params)
}

/// The one drawable that is to be edited.
///
/// # Safety
/// `drawables` is null or a list that ends with null.
unsafe fn only(drawables: *mut *mut sys::GimpDrawable) -> Result<Layer> {
    // SAFETY: the caller's promise; the list is read up to its null.
    unsafe {
        let count =
            if drawables.is_null() { 0 } else { (0..).take_while(|&at| !(*drawables.add(at)).is_null()).count() };
        if count != 1 {
            return Err(Error::Host(text!(
                "{count} layers are selected, must be {max}; click one layer in the Layers dialog",
                count,
                max = 1
            )));
        }
        Ok(library::number_of(*drawables).expect("counted above"))
    }
}

/// What the arguments are when nobody says anything else: what fits the built-in model, if it is there. GIMP keeps them
/// from the time when it first saw the plug-in, so they do not follow the model that counts without a name.
fn defaults(places: &Places) -> Params {
    catalog::find(BUILTIN_MODEL, places)
        .and_then(|model| model.params(DEFAULT_PRESET))
        .unwrap_or_else(|_| Params::paper())
}

/// Refuses a call that gives an argument whose place the preset takes.
fn no_argument_is_ignored(given: &Params, params: &Params, places: &Places) -> Result<()> {
    let defaults = defaults(places);
    let value = |params: &Params, id: &str| -> Value { params.get(id).expect("a row of the table") };
    let ignored = PARAMS.iter().filter(|param| param.is_of_preset()).map(|param| param.id).find(|id| {
        let given = value(given, id);
        given != value(&defaults, id) && given != value(params, id)
    });
    match ignored {
        None => Ok(()),
        Some(id) => Err(Error::Parameter(text!(
            "{id} is {given}, but the preset {preset} takes {taken}; set preset to {custom}",
            id,
            given = &value(given, id),
            preset = params.preset.name(),
            taken = &value(params, id),
            custom = Preset::Custom.name()
        ))),
    }
}
