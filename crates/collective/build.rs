//! Compiles the C++ shim against the libtorch that torch-sys links.

use std::path::PathBuf;

fn main() {
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is");
    let include = PathBuf::from(lib).with_file_name("include");
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-changed=build.rs");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .define("USE_C10D_GLOO", None)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include("shim")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("shim/gloo.cc")
        .compile("perennial_gloo");
}
