//! The table of planted bugs in `docs/reliability.md` names exactly the tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nihilo_sim::world::Plant;

const DOCUMENT: &str = include_str!("../../../docs/reliability.md");
const PREFIX: &str = "planted_";

fn tests_in(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("the sources are there") {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            tests_in(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("a readable source");
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("fn "));
        let names = names
            .filter_map(|line| line.split_once('('))
            .map(|(name, _)| name);
        found.extend(
            names
                .filter(|name| name.starts_with(PREFIX))
                .map(str::to_owned),
        );
    }
}

#[test]
fn every_planted_bug_is_in_the_table_and_has_its_test() {
    let mut tests = BTreeSet::new();
    let checkers = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/checker");
    tests_in(&checkers, &mut tests);
    let quoted = DOCUMENT.split('`').skip(1).step_by(2);
    let documented: BTreeSet<String> = quoted
        .filter(|name| name.starts_with(PREFIX))
        .map(str::to_owned)
        .collect();
    assert_eq!(documented, tests);
}

/// Rows of the table of bugs planted in the product, as (name, where).
fn product_rows() -> BTreeSet<(String, String)> {
    let begin = DOCUMENT
        .find("## Bugs planted in the product")
        .expect("the section is there");
    let section = &DOCUMENT[begin..];
    let end = section[3..]
        .find("\n## ")
        .map_or(section.len(), |end| end + 3);
    let rows = section[..end].lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (name, _) = cells.next()?.split_once('`')?;
        Some((name.to_owned(), cells.next()?.to_owned()))
    });
    rows.collect()
}

#[test]
fn every_bug_of_the_world_is_in_the_table_of_the_product() {
    let of_world = |row: &(String, String)| row.1 == "world";
    let rows = product_rows().into_iter().filter(of_world);
    let documented: BTreeSet<String> = rows.map(|(name, _)| name).collect();
    let plants = Plant::ALL.iter().map(|plant| plant.as_str().to_owned());
    assert_eq!(documented, plants.collect());
    assert!(documented.len() >= 24, "{}", documented.len());
}
