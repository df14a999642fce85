//! TLS for clients: certificates by name, exchanged without a drop (05-gateway §10).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use nihilo_host::Stream;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

/// The directory is looked at this often.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// Certificates of one directory, at most.
const MAX_CERTIFICATES: usize = 10_000;
/// Served to clients that name no host, and to those that name an unknown one.
const DEFAULT: &str = "default";
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("certificate directory `{}`", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    #[error("`{}` has no `{}` beside it", .0.display(), .1)]
    NoKey(PathBuf, &'static str),
    #[error("`{}` is no certificate chain in PEM with its key", .0.display())]
    Invalid(PathBuf),
    #[error("no certificate in `{}`: put NAME.crt and NAME.key there", .0.display())]
    Empty(PathBuf),
    #[error("TLS settings")]
    Settings(#[from] rustls::Error),
}

/// The host names that one certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// Whether they hold `host`, lower case: by itself or by a wildcard for its first label.
    pub fn cover(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.0.iter().any(|name| {
            let wild = name.strip_prefix("*.");
            name == host || (wild.is_some() && wild == parent)
        })
    }
}

#[derive(Debug)]
struct Entry {
    key: Arc<CertifiedKey>,
    names: Arc<Names>,
}

/// All certificates in use, by name.
#[derive(Debug, Default)]
struct Table {
    by_name: BTreeMap<String, Arc<Entry>>,
    default: Option<Arc<Entry>>,
}

impl Table {
    fn find(&self, host: Option<&str>) -> Option<&Arc<Entry>> {
        let Some(host) = host.map(str::to_ascii_lowercase) else {
            return self.default.as_ref();
        };
        let wild = host
            .split_once('.')
            .map(|(_, parent)| format!("*.{parent}"));
        self.by_name
            .get(&host)
            .or_else(|| self.by_name.get(&wild?))
            .or(self.default.as_ref())
    }
}

#[derive(Debug)]
struct Resolver(Arc<ArcSwap<Table>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.load();
        table
            .find(hello.server_name())
            .map(|entry| entry.key.clone())
    }
}

/// A TLS listener's certificates and settings; cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    table: Arc<ArcSwap<Table>>,
    directory: Arc<Path>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// A client past its handshake.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TlsStream<Stream>,
    pub is_h2: bool,
    pub names: Option<Arc<Names>>,
}

impl Tls {
    /// Reads `NAME.crt` and `NAME.key` pairs; the one called `default` is for everybody else.
    ///
    /// # Errors
    /// The directory or one of its pairs cannot be used.
    pub fn open(directory: &Path) -> Result<Self, TlsError> {
        let table = Arc::new(ArcSwap::from_pointee(read(directory)?));
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(table.clone())));
        config.alpn_protocols = ALPN.map(Vec::from).to_vec();
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            table,
            directory: directory.into(),
        })
    }

    /// # Errors
    /// The handshake failed.
    pub async fn accept(&self, socket: Stream) -> io::Result<Accepted> {
        let stream = self.acceptor.accept(socket).await?;
        let (_, session) = stream.get_ref();
        let table = self.table.load();
        let entry = table.find(session.server_name());
        Ok(Accepted {
            is_h2: session.alpn_protocol() == Some(ALPN[0]),
            names: entry.map(|entry| entry.names.clone()),
            stream,
        })
    }

    /// Uses what the directory holds now; connections that exist keep what they have.
    ///
    /// # Errors
    /// As [`Self::open`]; then nothing changes.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.table.store(Arc::new(read(&self.directory)?));
        Ok(())
    }

    /// Follows the directory for ever.
    pub async fn follow(self) {
        let mut seen = self.stamp().await;
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let now = self.stamp().await;
            if now == seen {
                continue;
            }
            let tls = self.clone();
            match tokio::task::spawn_blocking(move || tls.reload()).await {
                Ok(Ok(())) => {
                    seen = now;
                    info!(directory = %self.directory.display(), "certificates exchanged");
                }
                // Half written: the old ones stay, and it is looked at again.
                Ok(Err(error)) => warn!(%error, "certificates"),
                Err(error) => warn!(%error, "certificates"),
            }
        }
    }

    /// Changes when any file does.
    async fn stamp(&self) -> Vec<(PathBuf, Option<SystemTime>, u64)> {
        let directory = self.directory.clone();
        let look = move || {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            let mut files: Vec<_> = entries
                .filter_map(|entry| {
                    let data = std::fs::metadata(entry.path()).ok()?;
                    Some((entry.path(), data.modified().ok(), data.len()))
                })
                .collect();
            files.sort();
            files
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }
}

fn read(directory: &Path) -> Result<Table, TlsError> {
    let wrong = |error| TlsError::Directory(directory.to_owned(), error);
    let mut table = Table::default();
    let entries = std::fs::read_dir(directory).map_err(wrong)?;
    for entry in entries.take(2 * MAX_CERTIFICATES) {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_none_or(|extension| extension != "crt") {
            continue;
        }
        let key = path.with_extension("key");
        if !key.is_file() {
            return Err(TlsError::NoKey(path, "key"));
        }
        let entry =
            Arc::new(read_pair(&path, &key).ok_or_else(|| TlsError::Invalid(path.clone()))?);
        for name in &entry.names.0 {
            table.by_name.insert(name.clone(), entry.clone());
        }
        if path.file_stem().is_some_and(|stem| stem == DEFAULT) {
            table.default = Some(entry);
        }
    }
    match table.by_name.is_empty() && table.default.is_none() {
        true => Err(TlsError::Empty(directory.to_owned())),
        false => Ok(table),
    }
}

fn read_pair(certificate: &Path, key: &Path) -> Option<Entry> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).ok()?.collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty())?;
    let key = PrivateKeyDer::from_pem_file(key).ok()?;
    let names = names_of(chain.first()?)?;
    let key = ring::sign::any_supported_type(&key).ok()?;
    let key = CertifiedKey::new(chain, key);
    // A key of another certificate would break every handshake.
    let fits = key.keys_match();
    let is_known_wrong = matches!(
        fits,
        Err(rustls::Error::InconsistentKeys(
            rustls::InconsistentKeys::KeyMismatch
        ))
    );
    (!is_known_wrong).then(|| Entry {
        key: Arc::new(key),
        names: Arc::new(names),
    })
}

fn names_of(certificate: &CertificateDer<'_>) -> Option<Names> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let names = certificate.valid_dns_names();
    Some(Names(names.map(str::to_ascii_lowercase).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label() {
        let names = Names(vec!["a.b".into(), "*.c.d".into()]);
        for (host, is_covered) in [
            ("a.b", true),
            ("x.c.d", true),
            ("c.d", false),
            ("y.x.c.d", false),
            ("x.a.b", false),
            ("d", false),
        ] {
            assert_eq!(names.cover(host), is_covered, "{host}");
        }
    }
}
