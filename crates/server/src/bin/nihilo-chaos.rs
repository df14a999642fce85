//! `nihilo` with failpoints and planted bugs, for trials only: nothing else is different.

fn main() {
    std::process::exit(nihilo_server::entry::run());
}
