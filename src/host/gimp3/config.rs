//! The arguments of one call as an object with properties, which GIMP keeps for the next call and in presets and which
//! the dialog's fields show: from and to the table of parameters.

use crate::error::Result;
use crate::host::gimp::ffi::{c_string, guard, take_text};
use crate::host::gimp::widgets::Widget;
use crate::host::{gimp_sys as shared, gimp3_sys as sys};
use crate::params::{PARAMS, Param, Params, Slot};
use serde_json::Value;
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

/// Name of the argument for parameter `id`: GObject's names have no `_`.
pub fn property(id: &str) -> CString {
    c_string(&id.replace('_', "-"))
}

pub struct Config(Widget);

impl Config {
    /// # Safety
    /// `config` is the one that libgimp made for the procedure in `create_procedure`.
    pub unsafe fn from_object(config: *mut sys::GimpProcedureConfig) -> Self {
        Self(Widget::own(config))
    }

    pub fn object<T>(&self) -> *mut T {
        self.0.as_ptr()
    }

    /// What the arguments say, whether or not the preset goes before them.
    pub fn params(&self) -> Result<Params> {
        let mut params = Params::paper();
        for param in PARAMS {
            // JSON has no NaN or infinity; they become null, which no number's range holds.
            params.set(param.id, &self.get(param))?;
        }
        Ok(params)
    }

    /// What the argument of one parameter says.
    pub fn get(&self, param: &Param) -> Value {
        match param.slot(&Params::paper()) {
            // SAFETY: GObject gives a copy of the text away.
            Slot::Text(_) => Value::from(unsafe { take_text(self.property(param, null_mut::<c_char>())) }),
            Slot::Integer(_) => Value::from(self.property::<c_int>(param, 0)),
            Slot::Switch(_) => Value::from(self.property::<sys::gboolean>(param, 0) != 0),
            Slot::Real(_) => Value::from(self.property(param, 0.0_f64)),
        }
    }

    /// Sets the argument of one parameter; the dialog's field follows.
    pub fn set(&self, param: &Param, value: &Value) {
        let (object, name, end) = (self.object::<c_void>(), property(param.id), null::<c_char>());
        // SAFETY: the property has the type that `create_procedure` registered for the kind of slot; the value follows
        // its name and null ends the list; GObject copies the text.
        unsafe {
            let (name, set) = (name.as_ptr(), shared::g_object_set());
            match param.slot(&Params::paper()) {
                Slot::Text(_) => set(object, name, c_string(value.as_str().unwrap_or_default()).as_ptr(), end),
                Slot::Integer(_) => set(object, name, value.as_i64().unwrap_or_default() as c_int, end),
                Slot::Switch(_) => set(object, name, sys::gboolean::from(value.as_bool().unwrap_or_default()), end),
                Slot::Real(_) => set(object, name, value.as_f64().unwrap_or_default(), end),
            }
        }
    }

    /// The property of one parameter, of the C type of `value`, which is what it is before GObject fills it.
    fn property<T>(&self, param: &Param, mut value: T) -> T {
        let (name, end) = (property(param.id), null::<c_char>());
        // SAFETY: the variable has the type that `create_procedure` registered for the property; null ends the list.
        unsafe { sys::g_object_get()(self.object(), name.as_ptr(), &raw mut value, end) };
        value
    }

    /// Keeps the text of `entry` and the argument of parameter `id` the same.
    pub fn bind_text(&self, id: &str, entry: &Widget) {
        let both = sys::GBindingFlags(
            sys::GBindingFlags::G_BINDING_BIDIRECTIONAL.0 | sys::GBindingFlags::G_BINDING_SYNC_CREATE.0,
        );
        let name = property(id);
        // SAFETY: both objects are live and have the properties, of type string; the binding ends with either.
        unsafe { sys::g_object_bind_property(self.object(), name.as_ptr(), entry.as_ptr(), c"text".as_ptr(), both) };
    }

    /// Calls `body` when the argument of one parameter has changed, whoever changed it.
    pub fn connect_changed(&self, param: &Param, body: Box<dyn Fn()>) {
        type Body = Box<dyn Fn()>;
        unsafe extern "C" fn call(_config: *mut c_void, _property: *mut c_void, data: *mut c_void) {
            // SAFETY: `connect_raw` hands over the body.
            guard((), unsafe { &*data.cast::<Body>() });
        }
        let signal = c_string(&format!("notify::{}", param.id.replace('_', "-")));
        // SAFETY: this signal calls back with the object, the property and our data.
        unsafe { self.0.connect_raw(&signal, call as *const (), body) };
    }
}
