//! The one entry the launcher calls: decides who started us. Knows neither GIMP's protocol nor any option.

use super::{cli, gimp2, gimp3, system};
use crate::job::panic_text;
use std::ffi::{CStr, OsString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Exit status of a plug-in that could not start, or that has a defect.
const FAILED: c_int = 1;

/// Serves GIMP when GIMP started us, otherwise the person at the command line; returns the exit status.
///
/// # Safety
/// `argv` points to `argc` texts that end with NUL and live as long as the program, then NULL: what C's `main` gets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_main(argc: c_int, argv: *mut *mut c_char) -> c_int {
    let run = || {
        // SAFETY: the caller's promise is handed on.
        let arguments = unsafe { arguments(argc, argv) };
        let served = match starter(&arguments) {
            // SAFETY: as above.
            Starter::Gimp2 => unsafe { gimp2::main(argc, argv) },
            // SAFETY: as above.
            Starter::Gimp3 => unsafe { gimp3::main(argc, argv) },
            Starter::Person => Ok(cli::run(&arguments).map_or_else(cli::Failure::tell, |()| 0)),
        };
        served.unwrap_or_else(|error| {
            eprintln!("imagic-edit: {error}");
            FAILED
        })
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        eprintln!("imagic-edit: this is a defect of Imagic Edit, please report it: {}", panic_text(&*panic));
        FAILED
    })
}

#[derive(Debug, PartialEq)]
enum Starter {
    Gimp2,
    Gimp3,
    Person,
}

/// GIMP 2.10 calls `PROGRAM -gimp READ WRITE MODE STACK`, GIMP 3 `PROGRAM -gimp PROTOCOL READ WRITE MODE STACK`;
/// `arguments` come without the program.
fn starter(arguments: &[OsString]) -> Starter {
    let is_mode = |at: usize| {
        let argument = arguments.get(at).and_then(|text| text.to_str());
        argument.is_some_and(|text| ["-query", "-init", "-run"].contains(&text))
    };
    match arguments.first() {
        Some(first) if first == "-gimp" && is_mode(3) => Starter::Gimp2,
        Some(first) if first == "-gimp" => Starter::Gimp3,
        _ => Starter::Person,
    }
}

/// The arguments without the program's name.
///
/// # Safety
/// As [`imagic_main`].
unsafe fn arguments(argc: c_int, argv: *mut *mut c_char) -> Vec<OsString> {
    (1..usize::try_from(argc).unwrap_or(0))
        .map(|index| {
            // SAFETY: `index` is below `argc` and every one of `argc` entries is a text that ends with NUL.
            let text = unsafe { CStr::from_ptr(*argv.add(index)) };
            system::os_text(text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_say_which_gimp_started_the_plug_in() {
        let start = |arguments: &str| starter(&arguments.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(start("-gimp 8 9 -query 0"), Starter::Gimp2);
        assert_eq!(start("-gimp 272 8 9 -run 0"), Starter::Gimp3);
        assert_eq!(start("edit --prompt x -run"), Starter::Person);
        assert_eq!(start(""), Starter::Person);
    }
}
