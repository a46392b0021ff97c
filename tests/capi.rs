//! The C ABI: the header fits the library, every call is guarded, and a C program gets what the header promises.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Home, finish};
use syn::{Expr, Fields, FnArg, Item, ItemFn, Lit, Meta, Pat, ReturnType, Stmt, Type};

const SOURCE: &str = "src/host/capi.rs";
const TYPES: &str = "src/host/capi/types.rs";
const HEADER: &str = "include/imagic.h";

/// To this model every picture is unfamiliar.
const STRICT: &str = r#"{"familiar_psnr": 200}"#;

#[test]
fn the_header_is_the_one_written_from_the_source() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(HEADER);
    let header = header(&source());
    if std::fs::read_to_string(&path).ok().as_ref() != Some(&header) {
        std::fs::write(&path, header).expect("the header can be written");
        panic!("{HEADER} did not fit {SOURCE} and has been written anew; look at the change and commit it");
    }
}

#[test]
fn every_call_is_guarded_and_every_call_with_a_pointer_is_unsafe() {
    let source = source();
    let mut calls = 0;
    for function in exported(&source) {
        calls += 1;
        let name = &function.sig.ident;
        let first = function.block.stmts.first();
        let guarded = matches!(first, Some(Stmt::Expr(Expr::Call(call), None)) if path_is(&call.func, "guard"));
        assert!(function.block.stmts.len() == 1 || !guarded, "{name} does something outside of guard");
        // Without arguments a call can only give out a constant.
        assert!(guarded || function.sig.inputs.is_empty(), "{name} is not guarded");
        let pointers =
            function.sig.inputs.iter().any(|arg| matches!(arg, FnArg::Typed(arg) if matches!(&*arg.ty, Type::Ptr(_))));
        assert_eq!(function.sig.unsafety.is_some(), pointers, "{name}");
        assert_eq!(docs(&function.attrs).iter().any(|line| line == "# Safety"), pointers, "{name}");
    }
    assert!(calls > 10, "only {calls} calls found");
}

#[test]
fn a_c_program_gets_what_the_header_promises() {
    let home = Home::new("capi");
    home.add_model("strict", STRICT);
    let program = compile(&home, &[]);
    let output = finish(run(&home, &program, "all"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.ends_with("all checks passed\n"), "{out}{err}");
}

#[test]
fn wrong_calls_from_c_touch_no_memory_that_is_not_theirs() {
    let home = Home::new("capi-memory");
    home.add_model("strict", STRICT);
    let program = compile(&home, &["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]);
    let output = finish(run(&home, &program, "all"));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "address sanitizer: {err}");

    if Command::new("valgrind").arg("--version").output().is_err() {
        return eprintln!("skipped: valgrind is not installed");
    }
    let program = compile(&home, &[]);
    let mut command = home.command("valgrind");
    command.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
    // The threads of rayon outlive the program's end, which is no leak; and it is slow, so one edit has to do.
    command
        .arg("--show-leak-kinds=definite")
        .arg(&program)
        .arg("short")
        .arg(home.folder.join("data/imagic-edit/models"));
    let output = finish(command);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind: {err}");
}

#[test]
fn the_header_is_plain_c_and_c_plus_plus() {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join(HEADER);
    for (compiler, standard) in [("cc", "-std=c99"), ("c++", "-std=c++11")] {
        let language = if compiler == "cc" { "c" } else { "c++" };
        let mut command = Command::new(compiler);
        command.args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-x", language]);
        if command.get_program() == "c++" && Command::new("c++").arg("--version").output().is_err() {
            return eprintln!("skipped: no C++ compiler");
        }
        command.arg(&include);
        let output = finish(command);
        assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Builds tests/capi/program.c against the library beside this test.
fn compile(home: &Home, flags: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let libraries = std::env::current_exe().expect("the test knows its own file");
    let libraries = libraries.parent().expect("a file has a folder");
    let program = home.folder.join("program");
    let mut command = Command::new("cc");
    command.args(["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    command
        .args(flags)
        .arg("-I")
        .arg(root.join("include"))
        .arg("-o")
        .arg(&program)
        .arg(root.join("tests/capi/program.c"));
    command.arg("-L").arg(libraries).args(["-l:libimagic_edit.so", "-lpthread"]);
    command.arg(format!("-Wl,-rpath,{}", libraries.display()));
    let output = finish(command);
    assert!(output.status.success(), "cc (apt install gcc): {}", String::from_utf8_lossy(&output.stderr));
    program
}

fn run(home: &Home, program: &Path, what: &str) -> Command {
    let mut command = home.command(program);
    command.arg(what).arg(home.folder.join("data/imagic-edit/models"));
    command
}

/// The calls, behind the types that they use.
fn source() -> syn::File {
    let parse = |file: &str| {
        let text =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("the source is there");
        syn::parse_file(&text).expect("the source is Rust")
    };
    let (calls, types) = (parse(SOURCE), parse(TYPES));
    syn::File { items: types.items.into_iter().chain(calls.items).collect(), ..calls }
}

fn exported(source: &syn::File) -> impl Iterator<Item = &ItemFn> {
    source.items.iter().filter_map(|item| match item {
        Item::Fn(function) if function.sig.abi.is_some() => Some(function),
        _ => None,
    })
}

/// The C header for what `source` exports: constants, enums, `#[repr(C)]` structs, opaque handles, functions.
fn header(source: &syn::File) -> String {
    let mut text = String::from("/* The C interface of Imagic Edit.\n");
    let intro = docs(&source.attrs);
    text += &intro
        .iter()
        .skip_while(|line| !line.is_empty())
        .map(|line| format!(" * {}", plain(line)).trim_end().to_owned() + "\n")
        .collect::<String>();
    text += &format!(" *\n * Written by tests/capi.rs from {SOURCE}: change that file, not this one. */\n\n");
    text += "#ifndef IMAGIC_H\n#define IMAGIC_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n";
    text += "#ifdef __cplusplus\nextern \"C\" {\n#endif\n";
    for item in &source.items {
        text += &match item {
            Item::Const(item) if matches!(item.vis, syn::Visibility::Public(_)) => {
                format!("\n{}#define {} {}\n", comment(&item.attrs, ""), item.ident, number(&item.expr))
            }
            Item::Enum(item) if matches!(item.vis, syn::Visibility::Public(_)) => {
                let name = snake(&item.ident.to_string());
                let variants = item.variants.iter().map(|variant| {
                    let (_, value) = variant.discriminant.as_ref().expect("numbers are fixed");
                    let constant = format!("{name}_{}", snake(&variant.ident.to_string())).to_uppercase();
                    format!("{}    {constant} = {}", comment(&variant.attrs, "    "), number(value))
                });
                let variants = variants.collect::<Vec<_>>().join(",\n");
                format!("\n{}typedef enum {name} {{\n{variants}\n}} {name};\n", comment(&item.attrs, ""))
            }
            Item::Struct(item) if matches!(item.vis, syn::Visibility::Public(_)) => {
                let name = snake(&item.ident.to_string());
                let fields = match &item.fields {
                    Fields::Named(fields) if item.attrs.iter().any(|attr| attr.path().is_ident("repr")) => fields,
                    _ => {
                        text += &format!("\n{}typedef struct {name} {name};\n", comment(&item.attrs, ""));
                        continue;
                    }
                };
                let fields = fields.named.iter().map(|field| {
                    let declared = declaration(&field.ty, &field.ident.as_ref().expect("it is named").to_string());
                    format!("{}    {declared};\n", comment(&field.attrs, "    "))
                });
                format!(
                    "\n{}typedef struct {name} {{\n{}}} {name};\n",
                    comment(&item.attrs, ""),
                    fields.collect::<String>()
                )
            }
            Item::Fn(item) if item.sig.abi.is_some() => {
                let arguments = item.sig.inputs.iter().map(|argument| match argument {
                    FnArg::Typed(argument) => match &*argument.pat {
                        Pat::Ident(name) => declaration(&argument.ty, &name.ident.to_string()),
                        _ => panic!("arguments have plain names"),
                    },
                    FnArg::Receiver(_) => panic!("C has no methods"),
                });
                let arguments = arguments.collect::<Vec<_>>().join(", ");
                let arguments = if arguments.is_empty() { "void".to_owned() } else { arguments };
                let ReturnType::Type(_, answer) = &item.sig.output else { panic!("every call answers") };
                let declared = declaration(answer, &format!("{}({arguments})", item.sig.ident));
                format!("\n{}{declared};\n", comment(&item.attrs, ""))
            }
            _ => String::new(),
        };
    }
    text + "\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n"
}

/// `name` declared as the C type that `ty` is.
fn declaration(ty: &Type, name: &str) -> String {
    match ty {
        Type::Ptr(pointer) => {
            let inner = declaration(&pointer.elem, &format!("*{name}"));
            let is_inner_pointer = matches!(&*pointer.elem, Type::Ptr(_));
            if pointer.const_token.is_some() && !is_inner_pointer { format!("const {inner}") } else { inner }
        }
        Type::Array(array) => match &array.len {
            Expr::Path(len) => declaration(&array.elem, &format!("{name}[{}]", len.path.segments[0].ident)),
            _ => panic!("lengths are named constants"),
        },
        Type::Path(path) => {
            let name_in_rust = path.path.segments.last().expect("a type has a name").ident.to_string();
            let c_type = match name_in_rust.as_str() {
                "u8" => "uint8_t".to_owned(),
                "u32" => "uint32_t".to_owned(),
                "i32" => "int32_t".to_owned(),
                "usize" => "size_t".to_owned(),
                "f64" => "double".to_owned(),
                "c_char" => "char".to_owned(),
                "c_void" => "void".to_owned(),
                own if own.starts_with("Imagic") => snake(own),
                other => panic!("{other} has no place in a C header"),
            };
            format!("{c_type} {name}")
        }
        _ => panic!("C knows pointers, arrays and names"),
    }
}

/// ImagicJob -> imagic_job.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

fn number(expr: &Expr) -> String {
    match expr {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => number.base10_digits().to_owned(),
            _ => panic!("only whole numbers go into the header"),
        },
        _ => panic!("only literals go into the header"),
    }
}

fn docs(attributes: &[syn::Attribute]) -> Vec<String> {
    let doc = |attribute: &syn::Attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim_start().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    attributes.iter().filter_map(doc).collect()
}

/// The doc comment as a C comment.
fn comment(attributes: &[syn::Attribute], indent: &str) -> String {
    let lines: Vec<String> = docs(attributes).iter().filter(|line| !line.is_empty()).map(|line| plain(line)).collect();
    let lines: Vec<String> = lines
        .iter()
        .map(|line| if line == "# Safety" { "The caller promises:".to_owned() } else { line.clone() })
        .collect();
    format!("{indent}/* {} */\n", lines.join(&format!("\n{indent} * ")))
}

/// Without the marks of rustdoc.
fn plain(line: &str) -> String {
    line.replace("[`", "").replace("`]", "").replace('`', "")
}

fn path_is(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::Path(path) if path.path.is_ident(name))
}
