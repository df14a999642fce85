//! Names: what they may look like, how derived ones are made, and the nearest known one.

/// Longest DNS label.
/// Longest subdomain.
pub const MAX_SUBDOMAIN: usize = 253;
pub const MAX_LABEL: usize = 63;

/// Returns the name of the revision that a configuration's `generation` makes:
/// `<configuration>-<5 digits>`, cut with a hash of the parent when that is longer than a label.
///
/// Differs from Knative: the hash is xxh3, not md5.
pub fn child_revision(configuration: &str, generation: u64) -> String {
    let suffix = format!("-{generation:05}");
    if configuration.len() + suffix.len() <= MAX_LABEL {
        return format!("{configuration}{suffix}");
    }
    let hash = format!(
        "{:016x}",
        xxhash_rust::xxh3::xxh3_64(configuration.as_bytes())
    );
    let keep = MAX_LABEL - suffix.len() - hash.len();
    let head: String = configuration.chars().take(keep).collect();
    format!("{head}{hash}{suffix}")
}

/// # Errors
/// Kubernetes' sentences about what a DNS-1035 label must look like.
pub fn check_dns1035(name: &str) -> Result<(), String> {
    if name.len() > MAX_LABEL {
        return Err("must be no more than 63 characters".into());
    }
    let begins_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    let ends_well = name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if begins_well && ends_well && name.chars().all(is_label_char) {
        return Ok(());
    }
    Err(
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
         an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
         'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            .into(),
    )
}

/// # Errors
/// What a DNS-1123 subdomain must look like.
pub fn check_dns1123_subdomain(name: &str) -> Result<(), String> {
    let ok = name.len() <= MAX_SUBDOMAIN && name.split('.').all(|part| check_dns1123(part).is_ok());
    if ok {
        return Ok(());
    }
    Err(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
         or '.', and must start and end with an alphanumeric character"
            .into(),
    )
}

/// # Errors
/// What a DNS-1123 label must look like.
pub fn check_dns1123(name: &str) -> Result<(), String> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ok = name.len() <= MAX_LABEL
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(is_label_char);
    if ok {
        return Ok(());
    }
    Err(
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
         and must start and end with an alphanumeric character"
            .into(),
    )
}

fn is_label_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

/// Returns the candidate nearest to `word`, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.len() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_numbered_and_fit_a_label() {
        assert_eq!(child_revision("hello", 1), "hello-00001");
        let long = child_revision(&"a".repeat(63), 123_456);
        assert!(long.len() <= MAX_LABEL && long.ends_with("-123456"));
        assert_ne!(
            long,
            child_revision(&format!("{}b", "a".repeat(62)), 123_456)
        );
    }

    #[test]
    fn labels_are_checked() {
        for good in ["a", "hello", "my-name", "abc-123"] {
            assert!(check_dns1035(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "a-", "Hello", "a_b", &"a".repeat(64)] {
            assert!(check_dns1035(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_word_finds_its_neighbour() {
        let known = ["containerConcurrency", "containers", "timeoutSeconds"];
        assert_eq!(
            nearest("containerConcurency", known),
            Some("containerConcurrency")
        );
        assert_eq!(nearest("banana", known), None);
    }
}
