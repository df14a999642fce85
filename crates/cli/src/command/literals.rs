//! `--from-literal`, `--from-file`, `--from-env-file`: keys and values of a new Secret or ConfigMap.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use nihilo_types::config_map::MAX_BYTES;
use nihilo_types::secret_value::SecretValue;

use crate::failure::{Failure, Result};

/// At least one of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Literals {
    /// A value as it stands here, where others on this machine may see it while the command runs.
    /// May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = hidden)]
    from_literal: Vec<SecretValue>,
    /// The content of a file, `-` for standard input; without a key, under the file's name. May be
    /// repeated.
    #[arg(long, value_name = "[KEY=]FILE")]
    from_file: Vec<String>,
    /// A file of lines KEY=VALUE; empty ones and those that begin with `#` are left out.
    #[arg(long, value_name = "FILE")]
    from_env_file: Vec<PathBuf>,
}

/// Never fails: clap repeats what it refuses.
#[expect(clippy::unnecessary_wraps, reason = "the form that clap wants")]
fn hidden(text: &str) -> std::result::Result<SecretValue, std::convert::Infallible> {
    Ok(SecretValue::new(text))
}

impl Literals {
    /// # Errors
    /// Usage: a file that cannot be read, what is no pair, or a key twice. No value is repeated.
    pub(crate) fn read(&self) -> Result<BTreeMap<String, SecretValue>> {
        let mut values = BTreeMap::new();
        let mut add = |key: String, value: SecretValue| match values.contains_key(&key) {
            true => Err(Failure::usage(format!("key `{key}` is given twice"))),
            false => {
                values.insert(key, value);
                Ok(())
            }
        };
        for literal in &self.from_literal {
            let (key, value) = pair(literal.expose())
                .ok_or_else(|| Failure::usage("--from-literal takes KEY=VALUE"))?;
            add(key, value)?;
        }
        for file in &self.from_file {
            let (key, path) = match file.split_once('=') {
                Some((key, path)) => (key.to_owned(), path),
                None => (name_of(file)?, file.as_str()),
            };
            add(key, read(path)?)?;
        }
        for file in &self.from_env_file {
            let shown = file.display();
            let text = read(&file.to_string_lossy())?;
            for (i, line) in text.expose().split(|byte| *byte == b'\n').enumerate() {
                let line = line.trim_ascii();
                if line.is_empty() || line.starts_with(b"#") {
                    continue;
                }
                let (key, value) = pair(line)
                    .ok_or_else(|| Failure::usage(format!("{shown}:{}: not KEY=VALUE", i + 1)))?;
                add(key, value)?;
            }
        }
        Ok(values)
    }
}

fn pair(bytes: &[u8]) -> Option<(String, SecretValue)> {
    let at = bytes.iter().position(|byte| *byte == b'=')?;
    let (key, value) = bytes.split_at(at);
    let key = std::str::from_utf8(key)
        .ok()
        .filter(|key| !key.is_empty())?;
    Some((key.to_owned(), SecretValue::new(&value[1..])))
}

fn name_of(file: &str) -> Result<String> {
    let name = Path::new(file).file_name().and_then(|name| name.to_str());
    let name = name.filter(|_| file != "-");
    name.map(str::to_owned).ok_or_else(|| {
        Failure::usage(format!(
            "`{file}` has no name of its own: --from-file KEY={file}"
        ))
    })
}

fn read(file: &str) -> Result<SecretValue> {
    // One byte more than there may be.
    let limit = u64::try_from(MAX_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let mut bytes = Vec::new();
    let read = match file {
        "-" => std::io::stdin().take(limit).read_to_end(&mut bytes),
        path => {
            std::fs::File::open(path).and_then(|opened| opened.take(limit).read_to_end(&mut bytes))
        }
    };
    let value = SecretValue::new(bytes);
    read.map_err(|error| Failure::usage(format!("cannot read {file}: {error}")))?;
    if value.n_bytes() > MAX_BYTES {
        let text = format!("{file}: more than {MAX_BYTES} bytes");
        return Err(Failure::usage(text));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        from: Literals,
    }

    fn read(args: &[&str]) -> Result<BTreeMap<String, SecretValue>> {
        let line = Line::try_parse_from(["x"].iter().chain(args)).unwrap();
        assert!(!format!("{line:?}").contains("hunter2"));
        line.from.read()
    }

    #[test]
    fn values_come_from_the_line_and_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            file.to_str().unwrap().to_owned()
        };
        let (file, env) = (
            write("cert.pem", "a=b"),
            write("x.env", "# no\n\nA=1\n B=x=y \n"),
        );
        let named = format!("k={file}");
        let args = [
            "--from-literal",
            "p=hunter2=",
            "--from-file",
            &file,
            "--from-file",
            &named,
            "--from-env-file",
            &env,
        ];
        let values = read(&args).unwrap();
        let text = |(key, value): (&String, &SecretValue)| {
            format!("{key}={}", String::from_utf8_lossy(value.expose()))
        };
        let all: Vec<_> = values.iter().map(text).collect();
        assert_eq!(all, ["A=1", "B=x=y", "cert.pem=a=b", "k=a=b", "p=hunter2="]);
    }

    #[test]
    fn mistakes_are_usage_errors_that_repeat_no_value() {
        for bad in [
            &["--from-literal", "hunter2"][..],
            &["--from-literal", "=hunter2"],
            &["--from-literal", "a=hunter2", "--from-literal", "a=hunter2"],
            &["--from-file", "-"],
            &["--from-file", "/nonexistent/x"],
        ] {
            let failure = read(bad).unwrap_err();
            assert_eq!(failure.code, 2, "{bad:?}");
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
        }
        assert!(Line::try_parse_from(["x"]).is_err());
    }
}
