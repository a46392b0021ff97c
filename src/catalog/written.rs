//! Paths as people write them, and as texts that say every path there is.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The path that somebody means who copied it from a terminal, a file manager or a browser.
pub fn path_of(text: &str) -> PathBuf {
    let path = text.trim();
    let quoted = |quote: char| path.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let path = quoted('"').or_else(|| quoted('\'')).unwrap_or(path);
    if let Some(uri) = path.strip_prefix("file://") {
        let local = uri.strip_prefix("localhost").unwrap_or(uri);
        // On Windows: file:///C:/models
        let is_drive = local.as_bytes().get(2) == Some(&b':');
        return PathBuf::from(unescaped(if is_drive { &local[1..] } else { local }));
    }
    match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with(['/', '\\']) => {
            dirs::home_dir().map_or_else(|| path.into(), |home| home.join(rest.trim_start_matches(['/', '\\'])))
        }
        _ => PathBuf::from(path),
    }
}

/// `path` as a text from which [`path_of`] makes the same path: as it is, or, where it is no valid text or would be
/// taken for something else, as `file://` with `%FF` for what is none. Parameters, recipes and JSON are texts, and on
/// Unix a path may be any bytes.
pub fn text_of(path: &Path) -> String {
    match path.to_str() {
        Some(text) if path_of(text).as_os_str() == path.as_os_str() => text.to_owned(),
        _ => escaped(path),
    }
}

fn escaped(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~:\\".contains(&byte);
    let escaped = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
    let bytes = path.as_os_str().as_encoded_bytes();
    let slash = if bytes.starts_with(b"/") { "" } else { "/" };
    format!("file://{slash}{}", bytes.iter().map(escaped).collect::<String>())
}

/// `text` with its `%20` as what they stand for.
fn unescaped(text: &str) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    #[cfg(unix)]
    return std::os::unix::ffi::OsStringExt::from_vec(bytes);
    #[cfg(not(unix))]
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_understood_as_they_are_copied() {
        for (given, meant) in [
            ("/models/a b.safetensors", "/models/a b.safetensors"),
            ("  /models/a.safetensors\n", "/models/a.safetensors"),
            ("\"/models/a.safetensors\"", "/models/a.safetensors"),
            ("'/models/a.safetensors'", "/models/a.safetensors"),
            ("file:///models/a%20b%C3%A4.safetensors", "/models/a b\u{e4}.safetensors"),
            ("file://localhost/models/a", "/models/a"),
            ("file:///C:/models/a", "C:/models/a"),
            ("100%.safetensors", "100%.safetensors"),
            ("dreamshaper", "dreamshaper"),
        ] {
            assert_eq!(path_of(given), Path::new(meant), "{given:?}");
        }
        let home = dirs::home_dir().expect("a home");
        assert_eq!(path_of("~/models/a"), home.join("models/a"));
        assert_eq!(path_of("~"), home);
        assert_eq!(path_of("~other/a"), Path::new("~other/a"));
    }

    #[cfg(unix)]
    #[test]
    fn every_path_is_a_text_and_back() {
        use std::os::unix::ffi::OsStrExt;
        for (path, text) in [
            (&b"/models/a b.safetensors"[..], "/models/a b.safetensors"),
            (b"/models/\xe4\xff%41.safetensors", "file:///models/%E4%FF%2541.safetensors"),
            (b"/models/a ", "file:///models/a%20"),
            (b"'/models'", "file:///%27/models%27"),
        ] {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            assert_eq!(text_of(path), text);
            if path.is_absolute() {
                assert_eq!(path_of(text), path);
            }
        }
    }
}
