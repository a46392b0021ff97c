//! The adapter for GIMP as far as it is the same in every version: the edit of a layer, what a document remembers, the
//! dialog.
//!
//! What differs stands behind two contracts: [`library::Library`], the calls of libgimp that take other arguments, and
//! [`form::Form`], the fields and buttons of the dialog. `gimp2` keeps them for GIMP 2.10 with GTK 2, `gimp3` for GIMP
//! 3 with GTK 3. Functions of GTK, GEGL and libgimp that both have with the same arguments are called directly, see
//! `gimp_sys`.
//!
//! # How a GIMP 4 is added
//!
//! 1. `build.rs`: one more `Gimp` with its packages; its bindings become `gimp4_sys.rs`. The build then names every
//!    function in `gimp_sys.rs` that GIMP 4 has not, or has with other arguments. Those of libgimp go into the contract
//!    `Library`. Those of GTK are called in [`widgets`] alone: such a method there calls what the loaded GTK has, one
//!    process serves one GIMP.
//! 2. `gimp4/library.rs`: some 35 calls behind `Library`, most of them one line; `same_calls` has those that kept their
//!    names.
//! 3. `gimp4/form.rs`: a `Form`, GIMP's own dialog (as in `gimp3`) or fields of ours (as in `gimp2`).
//! 4. `gimp4.rs`: registers the procedure, reads its arguments into [`crate::params::Params`], opens a
//!    [`session::Session`] and hands it to [`control::run`] or lets it edit and wait.
//! 5. `entry.rs`: how GIMP 4 starts a plug-in. `cli/doctor.rs` and the installer: where it looks for plug-ins.
//! 6. `tests/gimp4.rs` beside those of the other two: the same walk through the dialog, the same documents.

pub mod buffer;
pub mod control;
pub mod document;
pub mod ffi;
pub mod form;
pub mod keys;
pub mod layout;
pub mod library;
pub mod mnemonics;
pub mod panel;
pub mod procedure;
pub mod same_calls;
pub mod session;
pub mod widgets;
