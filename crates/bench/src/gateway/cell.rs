//! One corner of the matrix: which protocol, and how large an answer.

use crate::cluster::host_of;
use crate::load::Protocol;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Body {
    #[value(name = "1k")]
    K1,
    #[value(name = "64k")]
    K64,
}

impl Body {
    pub(super) const ALL: [Self; 2] = [Self::K1, Self::K64];

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::K1 => 1_024,
            Self::K64 => 64 * 1_024,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::K1 => "1k",
            Self::K64 => "64k",
        }
    }

    /// The service that answers so much.
    pub(super) fn service(self) -> String {
        format!("web-{}", self.name())
    }

    pub(super) fn host(self) -> String {
        host_of(&self.service())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) protocol: Protocol,
    pub(super) body: Body,
}

impl Cell {
    pub(super) fn all(protocols: &[Protocol], bodies: &[Body]) -> Vec<Self> {
        let pairs = |protocol: &Protocol| {
            let protocol = *protocol;
            bodies.iter().map(move |body| Self {
                protocol,
                body: *body,
            })
        };
        protocols.iter().flat_map(pairs).collect()
    }

    /// As a part of a key in the JSON.
    pub(super) fn key(self) -> String {
        let protocol = match self.protocol {
            Protocol::H1 => "h1",
            Protocol::H2 => "h2",
        };
        format!("{protocol}_{}", self.body.name())
    }

    pub(super) fn label(self) -> String {
        let protocol = match self.protocol {
            Protocol::H1 => "HTTP/1.1",
            Protocol::H2 => "HTTP/2",
        };
        format!("{protocol}, {} KiB", self.body.bytes() / 1_024)
    }
}
