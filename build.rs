//! An ordinary build does nothing here. With the feature `cuda` it compiles the GPU's kernels, with the compiler that
//! installer/cuda-toolkit.sh fetches. With the feature `bindgen` it writes src/host/gimp_sys.rs, gimp2_sys.rs and
//! gimp3_sys.rs anew from the installed headers (Debian: libgimp2.0-dev, libgimp-3.0-dev, libclang-dev); use the oldest
//! GIMP 2.10 and 3 that are to be served. GIMP 3's may lie in a system of its own: IMAGIC_GIMP3_ROOT says where
//! (tests/gimp3/root.sh makes one).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "bindgen")]
    bindings::generate();
    #[cfg(feature = "cuda")]
    kernels::compile();
}

#[cfg(feature = "cuda")]
mod kernels {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::{env, fs};

    /// Compute capability of the oldest cards that can run the kernels: 8.0, NVIDIA's Ampere of 2020. The driver
    /// translates this for newer ones.
    const ARCHITECTURE: &str = "compute_80";

    pub fn compile() {
        const FOLDER: &str = "src/engine/ops/gpu";
        for file in ["kernels.cu", "typed.cu", "adam8.cu", "attention.cu", "kernel.h", "tile.h"] {
            println!("cargo::rerun-if-changed={FOLDER}/{file}");
        }
        for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("kernels.ptx");
        let folder = env::var("CUDA_HOME").or_else(|_| env::var("CUDA_PATH"));
        let nvcc = env::var("NVCC").or_else(|_| folder.map(|folder| format!("{folder}/bin/nvcc")));
        let nvcc = nvcc.unwrap_or_else(|_| "nvcc".to_owned());
        let mut command = Command::new(&nvcc);
        command.args(["-ptx", "-std=c++17", "-O3", "--gpu-architecture", ARCHITECTURE, "-o"]);
        let output = command.arg(&out).arg(Path::new(FOLDER).join("kernels.cu")).output();
        let output = output.unwrap_or_else(|error| {
            panic!(
                "cannot run {nvcc}: {error}; run installer/cuda-toolkit.sh and build with the command that it prints"
            )
        });
        assert!(output.status.success(), "{nvcc} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::metadata(&out).is_ok_and(|file| file.len() > 0), "{nvcc} wrote no {}", out.display());
        // A function of CUDA that src/engine/device/symbols.rs does not know is to be found out here, not on a user's
        // machine.
        println!("cargo::rustc-link-arg-cdylib=-Wl,-z,defs");
    }
}

#[cfg(feature = "bindgen")]
mod bindings {
    use quote::quote;
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::process::Command;
    use std::{env, fs};

    /// Structures whose fields no adapter uses.
    const OPAQUE: &str =
        "_(Gtk|Gdk[^E]|GdkEvent[^K]|Pango|GObject|GType[^Q]|GClosure|GeglBuffer|Babl|Atk|Cairo|GimpColor|GimpRGB).*";

    /// One version of GIMP and the adapter for it.
    struct Gimp {
        /// Name of the adapter in src/host.
        adapter: &'static str,
        /// First line of the generated file.
        title: &'static str,
        packages: &'static [&'static str],
        /// System that holds the headers; `None` is this one.
        root: Option<String>,
    }

    pub fn generate() {
        println!("cargo::rerun-if-env-changed=IMAGIC_GIMP3_ROOT");
        let gimps = [
            Gimp {
                adapter: "gimp2",
                title: "What the adapter uses of libgimp 2.10 and GTK 2 alone",
                packages: &["gimpui-2.0", "gegl-0.4"],
                root: None,
            },
            Gimp {
                adapter: "gimp3",
                title: "What the adapter uses of libgimp 3 and GTK 3 alone",
                packages: &["gimp-3.0", "gimpui-3.0", "gegl-0.4"],
                root: env::var("IMAGIC_GIMP3_ROOT").ok(),
            },
        ];
        let (shared, none) = (words("gimp"), BTreeSet::new());
        let of_each = gimps.iter().map(|gimp| bind(gimp, &shared, &none)).collect::<Vec<_>>();
        for bindings in &of_each[1..] {
            assert!(
                functions(bindings) == functions(&of_each[0]),
                "src/host/gimp calls a function that one GIMP has with other arguments or not at all: {:?}",
                functions(bindings).symmetric_difference(&functions(&of_each[0])).collect::<Vec<_>>()
            );
        }
        let title = "What the adapters use of libgimp, GTK, GEGL and babl that is the same in every GIMP";
        write("gimp", title, of_each.last().expect("there is a GIMP"));
        for gimp in &gimps {
            write(gimp.adapter, gimp.title, &bind(gimp, &words(gimp.adapter), &shared));
        }
    }

    /// The words in src/host/`adapter`.rs and in the folder of that name: what it mentions is the allow-list.
    fn words(adapter: &str) -> BTreeSet<String> {
        let mut files = vec![host().join(adapter).with_extension("rs")];
        let entries = fs::read_dir(host().join(adapter)).unwrap_or_else(|error| panic!("{adapter}: {error}"));
        files.extend(entries.map(|entry| entry.expect("an entry").path()));
        // It is compiled in each version, with that one's functions.
        let same_calls = host().join("gimp/same_calls.rs");
        files.retain(|file| *file != same_calls);
        if adapter != "gimp" {
            files.push(same_calls);
        }
        let mut words = BTreeSet::new();
        for file in &files {
            println!("cargo::rerun-if-changed={}", file.display());
            let text = fs::read_to_string(file).expect("a source file");
            words.extend(text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned));
        }
        words
    }

    fn host() -> PathBuf {
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("src/host")
    }

    /// The bindings of what is among the `words`, without the functions that are `elsewhere`.
    fn bind(gimp: &Gimp, words: &BTreeSet<String>, elsewhere: &BTreeSet<String>) -> syn::File {
        let allowed = |words: &mut dyn Iterator<Item = &String>, prefixes: &[&str]| {
            let names = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).cloned();
            names.collect::<Vec<_>>().join("|")
        };
        let functions = ["gimp_", "gegl_", "babl_", "gtk_", "gdk_pixbuf_", "gdk_screen_", "g_"];
        let types = ["Gimp", "Gegl", "Gtk", "Gdk", "GConnect", "GBinding", "Pango"];
        let bindings = bindgen::Builder::default()
            .header_contents(
                &format!("{}.h", gimp.adapter),
                "#include <libgimp/gimp.h>\n#include <libgimp/gimpui.h>\n#include <gegl.h>\n",
            )
            .clang_args(include_flags(gimp))
            .allowlist_function(allowed(&mut words.difference(elsewhere), &functions))
            .allowlist_type(allowed(&mut words.iter(), &types))
            .allowlist_var(allowed(&mut words.iter(), &["GIMP_PARASITE_"]))
            .opaque_type(OPAQUE)
            .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false })
            .prepend_enum_name(false)
            .layout_tests(false)
            .generate_comments(false)
            .derive_debug(false)
            .formatter(bindgen::Formatter::None)
            .generate()
            .expect("bindgen reads the headers");
        syn::parse_file(&bindings.to_string()).expect("bindgen writes valid Rust")
    }

    /// The functions with their arguments and results.
    fn functions(bindings: &syn::File) -> BTreeSet<String> {
        let blocks = bindings.items.iter().filter_map(|item| match item {
            syn::Item::ForeignMod(block) => Some(&block.items),
            _ => None,
        });
        blocks.flatten().map(|function| quote!(#function).to_string()).collect()
    }

    fn write(adapter: &str, title: &str, bindings: &syn::File) {
        let target = host().join(format!("{adapter}_sys.rs"));
        fs::write(&target, lazy(title, bindings)).expect("the bindings can be written");
        let formatted = Command::new("rustfmt").args(["--edition", "2024"]).arg(&target).status();
        assert!(formatted.is_ok_and(|status| status.success()), "rustfmt failed on {}", target.display());
    }

    /// What tells clang where the headers are.
    fn include_flags(gimp: &Gimp) -> Vec<String> {
        let mut pkg_config = Command::new("pkg-config");
        pkg_config.arg("--cflags-only-I").args(gimp.packages);
        let mut flags = Vec::new();
        if let Some(root) = &gimp.root {
            let folders = format!("{root}/usr/lib/x86_64-linux-gnu/pkgconfig:{root}/usr/share/pkgconfig");
            pkg_config.env("PKG_CONFIG_SYSROOT_DIR", root).env("PKG_CONFIG_LIBDIR", folders);
            flags.push(format!("--sysroot={root}"));
        }
        let output = pkg_config.output().expect("pkg-config runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        flags.extend(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned));
        flags
    }

    /// Makes each `extern "C" { fn f(a: A) -> R; }` an ordinary function that looks the symbol up on first use.
    fn lazy(title: &str, bindings: &syn::File) -> String {
        let (mut items, mut names) = (quote!(), Vec::new());
        for item in &bindings.items {
            let syn::Item::ForeignMod(block) = item else {
                items.extend(quote!(#item));
                continue;
            };
            for function in &block.items {
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
                            unsafe {
                                ::std::mem::transmute::<*mut ::std::ffi::c_void, Function>(SYMBOL.address())(
                                    #(#arguments),*
                                )
                            }
                        }
                    }
                });
                names.push(c_name);
            }
        }
        let header = format!(
            "//! {title}; looked up at run time.\n\
             //! Generated by build.rs (`cargo build --release --features bindgen`); do not edit.\n\
             //!\n\
             //! Every `unsafe` here has the same reason: bindgen read the function's type from its header.\n"
        );
        let allow = quote! {
            #![allow(missing_docs, dead_code, non_camel_case_types, non_snake_case, non_upper_case_globals)]
            #![allow(clippy::all, clippy::undocumented_unsafe_blocks)]
            use super::loader::Symbol;
        };
        let all = quote! {
            pub const FUNCTIONS: &[&::std::ffi::CStr] = &[#(#names),*];
        };
        let doc = "/// Every function of this file, for the test that looks them all up.";
        format!("{header}{allow}\n{items}\n{doc}\n{all}\n")
    }
}
