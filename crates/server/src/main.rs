//! The `nihilo` binary.

fn main() {
    std::process::exit(nihilo_server::entry::run());
}
