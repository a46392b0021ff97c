//! An ordinary build does nothing here. With the feature `bindgen` it writes src/host/gimp2_sys.rs anew from the
//! installed headers (Debian: libgimp2.0-dev, libclang-dev); use the oldest GIMP 2.10 that is to be served.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "bindgen")]
    gimp2::generate();
}

#[cfg(feature = "bindgen")]
mod gimp2 {
    use quote::{format_ident, quote};
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::process::Command;
    use std::{env, fs};

    /// Structures whose fields the adapter uses; all others are opaque.
    const OPAQUE: &str =
        "_(Gtk|Gdk[^E]|GdkEvent[^K]|Pango|GObject|GType|GClosure|GeglBuffer|Babl|Atk|Cairo|GimpColor|GimpRGB).*";

    pub fn generate() {
        let source = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("src/host");
        let mut files = vec![source.join("gimp2.rs")];
        files.extend(
            fs::read_dir(source.join("gimp2")).expect("src/host/gimp2").map(|entry| entry.expect("an entry").path()),
        );
        for file in &files {
            println!("cargo::rerun-if-changed={}", file.display());
        }
        let source_text: String = files.iter().map(|file| fs::read_to_string(file).expect("a source file")).collect();
        let include_flags = Command::new("pkg-config")
            .args(["--cflags-only-I", "gimpui-2.0", "gegl-0.4"])
            .output()
            .expect("pkg-config runs");
        assert!(include_flags.status.success(), "{}", String::from_utf8_lossy(&include_flags.stderr));
        let bindings = bindgen::Builder::default()
            .header_contents("gimp2.h", "#include <libgimp/gimp.h>\n#include <libgimp/gimpui.h>\n#include <gegl.h>\n")
            .clang_args(String::from_utf8_lossy(&include_flags.stdout).split_whitespace())
            .allowlist_function(mentioned(&source_text, &["gimp_", "gegl_", "babl_", "gtk_", "g_"]))
            .allowlist_type(mentioned(&source_text, &["Gimp", "Gegl", "Gtk", "Gdk", "GConnect", "Pango"]))
            .allowlist_var(mentioned(&source_text, &["GIMP_PARASITE_"]))
            .opaque_type(OPAQUE)
            .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false })
            .prepend_enum_name(false)
            .layout_tests(false)
            .generate_comments(false)
            .derive_debug(false)
            .formatter(bindgen::Formatter::None)
            .generate()
            .expect("bindgen reads the headers");
        let target = source.join("gimp2_sys.rs");
        fs::write(&target, lazy(&bindings.to_string())).expect("src/host/gimp2_sys.rs can be written");
        let formatted = Command::new("rustfmt").args(["--edition", "2024"]).arg(&target).status();
        assert!(formatted.is_ok_and(|status| status.success()), "rustfmt failed on {}", target.display());
    }

    /// The words with one of `prefixes` in the adapter's source: what it uses is the allow-list.
    fn mentioned(source_text: &str, prefixes: &[&str]) -> String {
        let words = source_text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: BTreeSet<_> = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).collect();
        names.into_iter().collect::<Vec<_>>().join("|")
    }

    /// Makes each `extern "C" { fn f(a: A) -> R; }` an ordinary function that looks the symbol up on first use.
    fn lazy(bindings: &str) -> String {
        let (mut items, mut names) = (quote!(), Vec::new());
        for item in syn::parse_file(bindings).expect("bindgen writes valid Rust").items {
            let syn::Item::ForeignMod(block) = item else {
                items.extend(quote!(#item));
                continue;
            };
            for function in block.items {
                let syn::ForeignItem::Fn(function) = function else { continue };
                let (name, inputs, output) = (&function.sig.ident, &function.sig.inputs, &function.sig.output);
                let (arguments, types): (Vec<_>, Vec<_>) = inputs
                    .iter()
                    .map(|input| match input {
                        syn::FnArg::Typed(input) => (&input.pat, &input.ty),
                        syn::FnArg::Receiver(_) => unreachable!("C has no self"),
                    })
                    .unzip();
                let c_name =
                    syn::LitCStr::new(&std::ffi::CString::new(name.to_string()).expect("a C name"), name.span());
                let has_name = format_ident!("has_{name}");
                items.extend(if function.sig.variadic.is_some() {
                    // A Rust function cannot be variadic: it hands out the pointer, to be called as f()(a, b, ...).
                    quote! {
                        pub unsafe fn #name() -> unsafe extern "C" fn(#(#types,)* ...) #output {
                            static SYMBOL: Symbol = Symbol::new(#c_name);
                            unsafe { ::std::mem::transmute(SYMBOL.address()) }
                        }
                    }
                } else {
                    quote! {
                        pub unsafe fn #name(#inputs) #output {
                            static SYMBOL: Symbol = Symbol::new(#c_name);
                            type Function = unsafe extern "C" fn(#(#types),*) #output;
                            unsafe { ::std::mem::transmute::<*mut ::std::ffi::c_void, Function>(SYMBOL.address())(#(#arguments),*) }
                        }
                    }
                });
                items.extend(quote! {
                    pub fn #has_name() -> bool { Symbol::new(#c_name).find().is_some() }
                });
                names.push(c_name);
            }
        }
        let header = "//! libgimp 2.10, GTK 2, GEGL and babl as the adapter uses them, looked up at run time. Generated by build.rs\n\
                      //! (`cargo build --release --features bindgen`); do not edit.\n\
                      //!\n\
                      //! Every `unsafe` here has the same reason: bindgen read the function's type from its header.\n";
        let allow = quote! {
            #![allow(missing_docs, dead_code, non_camel_case_types, non_snake_case, non_upper_case_globals)]
            #![allow(clippy::all, clippy::undocumented_unsafe_blocks)]
            use super::loader::Symbol;
        };
        let all = quote! {
            /// Every function of this file, for the test that looks them all up.
            pub const FUNCTIONS: &[&::std::ffi::CStr] = &[#(#names),*];
        };
        format!("{header}{allow}\n{items}\n{all}\n")
    }
}
