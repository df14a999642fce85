//! Reads case files; their form is described in `cases/README.md`.

use std::path::Path;

use crate::frames;

#[derive(Debug, Clone, Default)]
pub struct Case {
    pub name: String,
    pub file: String,
    pub h2: Option<Opening>,
    pub is_slow: bool,
    pub is_alone: bool,
    pub service: String,
    pub steps: Vec<Step>,
    pub wants: Vec<Want>,
    pub seen: Vec<Seen>,
    pub scripts: Vec<Script>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    Whole,
    Bare,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Send(Vec<u8>),
    HalfClose,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub statuses: Vec<u16>,
    pub fields: Vec<(String, String)>,
    pub absent: Vec<String>,
    pub body: Option<Vec<u8>>,
    pub trailers: Vec<(String, String)>,
    pub is_cut: bool,
}

#[derive(Debug, Clone)]
pub enum Want {
    Answer(Answer),
    Close,
    Open,
    H2Headers(u32, u16),
    H2Data(u32, Vec<u8>),
    H2Rst(u32, Vec<u32>),
    H2GoAway(Vec<u32>),
    H2GoAwaySaid(u32),
    H2Error(u32, Vec<u32>),
    H2Frame(u8, u8, u32),
    H2Alive,
}

#[derive(Debug, Clone)]
pub enum Seen {
    Number(usize),
    Line(String),
    Header(String, String),
    No(String),
    Count(String, usize),
    Body(Vec<u8>),
    Cut,
    Trailer(String, String),
}

#[derive(Debug, Clone, Default)]
pub struct Script {
    pub bytes: Vec<u8>,
    pub closes: bool,
    pub is_early: bool,
}

/// Undoes the escapes of a text.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (kind, after) = rest.split_first().expect("something after a backslash");
        rest = after;
        bytes.push(match kind {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).expect("two digits");
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).expect("two hexadecimal digits")
            }
            other => *other,
        });
    }
    bytes
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once(':').expect("NAME: VALUE");
    let value = unescape(value.trim_start());
    (
        name.trim().to_ascii_lowercase(),
        String::from_utf8_lossy(&value).into_owned(),
    )
}

fn codes(text: &str) -> Vec<u32> {
    text.split('|').map(frames::code).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse()
        .unwrap_or_else(|_| panic!("a number, not `{text}`"))
}

/// All cases of a directory.
pub fn read_all(directory: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("the directory of cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "case")
        })
        .collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a case file in UTF-8");
        let file = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        for (n, line) in text.lines().enumerate() {
            let is_nothing = line.trim().is_empty() || line.starts_with('#');
            if is_nothing {
                continue;
            }
            let line = line.strip_suffix('\r').unwrap_or(line);
            if let Some(name) = line.strip_prefix("case ") {
                cases.push(Case {
                    name: name.to_owned(),
                    file: file.clone(),
                    service: "echo".to_owned(),
                    ..Case::default()
                });
                continue;
            }
            let case = cases.last_mut().expect("`case` first");
            let place = format!("{file}:{}: `{line}`", n + 1);
            assert!(case.read(line), "{place} is no directive");
        }
    }
    cases
}

impl Case {
    fn send(&mut self, bytes: &[u8]) {
        match self.steps.last_mut() {
            Some(Step::Send(before)) => before.extend_from_slice(bytes),
            _ => self.steps.push(Step::Send(bytes.to_vec())),
        }
    }

    fn host(&self) -> String {
        format!("{}.test", self.service)
    }

    fn text(&self, text: &str) -> Vec<u8> {
        unescape(&text.replace("HOST", &self.host()))
    }

    fn answer(&mut self) -> &mut Answer {
        match self.wants.last_mut() {
            Some(Want::Answer(answer)) => answer,
            _ => panic!("`<` first"),
        }
    }

    fn script(&mut self) -> &mut Script {
        if self.scripts.is_empty() {
            self.scripts.push(Script::default());
        }
        self.scripts.last_mut().expect("one at least")
    }

    /// Returns whether the line is a directive.
    fn read(&mut self, line: &str) -> bool {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "h2" => {
                self.h2 = Some(if rest == "bare" {
                    Opening::Bare
                } else {
                    Opening::Whole
                })
            }
            "slow" => self.is_slow = true,
            "alone" => self.is_alone = true,
            "service" => self.service = rest.to_owned(),
            ">" => {
                let bytes = [self.text(rest), b"\r\n".to_vec()].concat();
                self.send(&bytes);
            }
            ">|" => {
                let bytes = self.text(rest);
                self.send(&bytes);
            }
            "half-close" => self.steps.push(Step::HalfClose),
            "close" => self.wants.push(Want::Close),
            "open" => self.wants.push(Want::Open),
            "<" => self.wants.push(Want::Answer(Answer {
                statuses: rest.split('|').map(number).collect(),
                fields: Vec::new(),
                absent: Vec::new(),
                body: None,
                trailers: Vec::new(),
                is_cut: false,
            })),
            "<h" => {
                let field = pair(rest);
                self.answer().fields.push(field);
            }
            "<!" => self.answer().absent.push(rest.to_ascii_lowercase()),
            "<b" => self.answer().body = Some(unescape(rest)),
            "<t" => {
                let field = pair(rest);
                self.answer().trailers.push(field);
            }
            "<cut" => self.answer().is_cut = true,
            _ if word.starts_with(">*") => {
                let bytes = self.text(rest).repeat(number(&word[2..]));
                self.send(&bytes);
            }
            "seen" => self.read_seen(rest),
            "backend" | "backend>" | "backend>|" => self.read_backend(word, rest),
            _ if word.starts_with("backend>*") => {
                let bytes = unescape(rest).repeat(number(&word[9..]));
                self.script().bytes.extend(bytes);
            }
            _ => return self.read_h2(word, rest),
        }
        true
    }

    fn read_backend(&mut self, word: &str, rest: &str) {
        match (word, rest) {
            ("backend", "close") => self.script().closes = true,
            ("backend", "early") => self.script().is_early = true,
            ("backend", "next") => self.scripts.push(Script::default()),
            ("backend>", text) => {
                let bytes = [unescape(text), b"\r\n".to_vec()].concat();
                self.script().bytes.extend(bytes);
            }
            ("backend>|", text) => self.script().bytes.extend(unescape(text)),
            (_, other) => panic!("`backend {other}`"),
        }
    }

    fn read_seen(&mut self, rest: &str) {
        let (word, text) = rest.split_once(' ').unwrap_or((rest, ""));
        self.seen.push(match word {
            "line" => Seen::Line(text.to_owned()),
            "header" => {
                let (name, value) = pair(text);
                Seen::Header(name, value)
            }
            "no" => Seen::No(text.to_ascii_lowercase()),
            "count" => {
                let (name, n) = text.split_once(' ').expect("NAME N");
                Seen::Count(name.to_ascii_lowercase(), number(n))
            }
            "body" => Seen::Body(unescape(text)),
            "cut" => Seen::Cut,
            "trailer" => {
                let (name, value) = pair(text);
                Seen::Trailer(name, value)
            }
            n => Seen::Number(number(n)),
        });
    }

    fn read_h2(&mut self, word: &str, rest: &str) -> bool {
        let mut words = rest.split(' ');
        let mut next = || words.next().unwrap_or("");
        match word {
            "frame" => {
                let bytes = frames::parse_frame(rest);
                self.send(&bytes);
            }
            "frame*" => {
                let (n, rest) = rest.split_once(' ').expect("N TYPE …");
                let bytes = frames::parse_frames(number(n), rest);
                self.send(&bytes);
            }
            "headers" => {
                let bytes = frames::parse_headers(rest, &self.host());
                self.send(&bytes);
            }
            "h2-headers" => self
                .wants
                .push(Want::H2Headers(number(next()), number(next()))),
            "h2-data" => {
                let (stream, text) = rest.split_once(' ').expect("STREAM TEXT");
                self.wants
                    .push(Want::H2Data(number(stream), unescape(text)));
            }
            "h2-rst" => self.wants.push(Want::H2Rst(number(next()), codes(next()))),
            "h2-goaway" => self.wants.push(Want::H2GoAway(codes(next()))),
            "h2-goaway-said" => self.wants.push(Want::H2GoAwaySaid(frames::code(next()))),
            "h2-error" => self
                .wants
                .push(Want::H2Error(number(next()), codes(next()))),
            "h2-frame" => {
                let (kind, flags) = (frames::kind(next()), next().to_owned());
                let flags = frames::flags(&flags);
                self.wants.push(Want::H2Frame(kind, flags, number(next())));
            }
            "h2-alive" => self.wants.push(Want::H2Alive),
            _ => return false,
        }
        true
    }
}
