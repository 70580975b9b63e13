//! Files that may be replaced while the member runs.
//!
//! A certificate and its key are read again for connections that come later, and so is a list of revoked certificates.
//! Files are read on a blocking thread, whole, and compared by content, which also notices two changes within one tick
//! of the file system's clock. Connections that come within [`FRESH`] share one reading.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, SignatureScheme};

use super::certificate::Revoked;
use super::settings::PairPaths;

/// How long the content of a file counts as known. A replaced file is in use after that time at the latest.
const FRESH: Duration = Duration::from_millis(100);

/// The longest file that is read. A list of a million revoked certificates is shorter.
const MAX_BYTES: u64 = 64 << 20;

/// The meaning of the content of some files; kept until the content changes.
struct Reread<T> {
    paths: Vec<PathBuf>,
    parse: fn(&[Vec<u8>]) -> Result<T, String>,
    state: Mutex<State<T>>,
}

struct State<T> {
    content: Result<Vec<Vec<u8>>, String>,
    value: Result<Arc<T>, String>,
    read: Instant,
}

impl<T: Send + Sync + 'static> Reread<T> {
    /// Reads the files for the first time.
    fn new(paths: Vec<PathBuf>, parse: fn(&[Vec<u8>]) -> Result<T, String>) -> Reread<T> {
        let content = read_all(&paths);
        let value = content.as_ref().map_err(Clone::clone).and_then(|content| parse(content).map(Arc::new));
        Reread { paths, parse, state: Mutex::new(State { content, value, read: Instant::now() }) }
    }

    /// The meaning of the present content.
    async fn latest(self: &Arc<Self>) -> Result<Arc<T>, String> {
        {
            let mut state = self.state.lock();
            if state.read.elapsed() < FRESH {
                return state.value.clone();
            }
            // Connections that come while the files are read use what is known.
            state.read = Instant::now();
        }
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let content = read_all(&this.paths);
            let mut state = this.state.lock();
            if state.content != content {
                let value = content.as_ref().map_err(Clone::clone);
                state.value = value.and_then(|content| (this.parse)(content).map(Arc::new));
                state.content = content;
            }
            state.value.clone()
        });
        read.await.unwrap_or_else(|_panic| Err("reading a file panicked".into()))
    }

    fn known(&self) -> Result<Arc<T>, String> {
        self.state.lock().value.clone()
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    paths.iter().map(|path| read(path)).collect()
}

/// The content of a file. Errors have the texts of Go.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("open {}: no such file or directory", path.display()),
        io::ErrorKind::PermissionDenied => format!("open {}: permission denied", path.display()),
        _ => format!("open {}: {error}", path.display()),
    };
    let mut bytes = Vec::new();
    let length = File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if length as u64 > MAX_BYTES {
        return Err(format!("open {}: longer than {MAX_BYTES} bytes", path.display()));
    }
    Ok(bytes)
}

/// A certificate with its chain and its key. If the files are replaced by something that is none, the pair that was
/// read before stays in use.
pub(super) struct Pair {
    files: Arc<Reread<CertifiedKey>>,
    used: Mutex<Arc<CertifiedKey>>,
}

impl Pair {
    pub fn open(paths: &PairPaths) -> Result<Arc<Pair>, String> {
        let files = Reread::new(vec![paths.certificate.clone(), paths.key.clone()], parse_pair);
        let used = Mutex::new(files.known()?);
        Ok(Arc::new(Pair { files: Arc::new(files), used }))
    }

    /// Takes what the files hold now, if it is a pair.
    pub async fn refresh(&self) {
        match self.files.latest().await {
            Ok(pair) => *self.used.lock() = pair,
            Err(error) => {
                let [certificate, key] = &self.files.paths[..] else { return };
                seldom!(
                    error, (certificate, &error),
                    "cert-file" = %certificate.display(), "key-file" = %key.display(), error,
                    "cannot use a certificate file that has changed; the certificate that was read before stays in use"
                );
            }
        }
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pair").field("files", &self.files.paths).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Pair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.used.lock().clone())
    }
}

impl ResolvesClientCert for Pair {
    /// The same certificate for every server, as in etcd.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.used.lock().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn parse_pair(content: &[Vec<u8>]) -> Result<CertifiedKey, String> {
    let [certificate, key] = content else { return Err("two files make a pair".into()) };
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("tls: failed to parse certificate: {error}"))?;
    if chain.is_empty() {
        return Err("tls: failed to find any PEM data in certificate input".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        pem::Error::NoItemsFound => "tls: failed to find any PEM data in key input".to_owned(),
        error => format!("tls: failed to parse private key: {error}"),
    })?;
    let key = provider::sign::any_supported_type(&key)
        .map_err(|error| format!("tls: failed to parse private key: {error}"))?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => Err("tls: private key does not match public key".into()),
        Err(error) => Err(format!("tls: failed to parse certificate: {error}")),
    }
}

/// The certificates of CAs in a file; it is read at the start only, as in etcd.
pub(super) fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let named = |error: String| format!("{}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read(path)?) {
        let certificate = certificate.map_err(|error| named(error.to_string()))?;
        roots.add(certificate).map_err(|error| named(format!("not the certificate of a CA: {error}")))?;
    }
    if roots.is_empty() {
        return Err(named("no certificate of a CA in it".into()));
    }
    Ok(roots)
}

/// A list of revoked certificates. Without it, no certificate is accepted.
pub(super) struct Revocations(Arc<Reread<Revoked>>);

impl Revocations {
    /// As in etcd, a list that cannot be read is no reason not to start.
    pub fn open(path: &Path) -> Revocations {
        let parse = |content: &[Vec<u8>]| Revoked::parse(content.first().map_or(&[][..], Vec::as_slice));
        Revocations(Arc::new(Reread::new(vec![path.to_owned()], parse)))
    }

    /// Refuses a chain with a revoked certificate.
    pub async fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), String> {
        self.0.latest().await?.check(chain.iter().map(AsRef::as_ref))
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Revocations").field(&self.0.paths).finish()
    }
}
