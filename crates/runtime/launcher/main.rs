//! The launcher as a program: compiled by the crate's build script, carried inside `nihilo`.

#[path = "../src/launch.rs"]
mod launch;

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    std::process::exit(launch::run(&args));
}
