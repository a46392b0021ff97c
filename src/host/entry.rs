//! The one entry the launcher calls: decides who started us. Knows neither GIMP's protocol nor any option.

use super::{cli, gimp2, gimp3, system};
use crate::job::panic_text;
use crate::text::tell;
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
        let texts = (1..usize::try_from(argc).unwrap_or(0)).map(|index| {
            // SAFETY: `index` is below `argc` and every one of `argc` entries is a text that ends with NUL.
            unsafe { CStr::from_ptr(*argv.add(index)) }
        });
        let arguments: Vec<OsString> = texts.map(system::os_text).collect();
        let served = match starter(&arguments) {
            // SAFETY: the caller's promise is handed on.
            Starter::Gimp2 => unsafe { gimp2::main(argc, argv) },
            // SAFETY: as above.
            Starter::Gimp3 => unsafe { gimp3::main(argc, argv) },
            Starter::Person => Ok(cli::run(&arguments).map_or_else(cli::Failure::tell, |()| 0)),
        };
        served.unwrap_or_else(|error| {
            tell(format_args!("imagic-edit: {error}"));
            FAILED
        })
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        tell(format_args!("imagic-edit: this is a defect of Imagic Edit, please report it: {}", panic_text(&*panic)));
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
    let has_mode = arguments.get(3).is_some_and(|mode| ["-query", "-init", "-run"].iter().any(|known| mode == known));
    match arguments.first() {
        Some(first) if first == "-gimp" && has_mode => Starter::Gimp2,
        Some(first) if first == "-gimp" => Starter::Gimp3,
        _ => Starter::Person,
    }
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
