//! TLS, with rustls: connections of clients and of other members are encrypted, and certificates say who is there.
//!
//! ```text
//!   flags ──config──▶ Settings ──start──▶ Acceptor   io: a socket, accepted ──▶ handshake ──▶ the same code as without
//!                                         Connector  peer: a socket, connected ▶ handshake ─▶ the same code as without
//! ```
//!
//! Rules:
//! - TLS ends here. A connection is a byte stream with an optional name of a user, and no other code sees a
//!   certificate.
//! - The certificates that etcd accepts are accepted, and others are refused, with etcd's words in the log ([`words`]).
//! - The library checks signatures, times, purposes and chains. This room adds what etcd adds: allowed names
//!   ([`verify`]), lists of revoked certificates ([`certificate`]), the addresses of members ([`san`]).
//! - The checks that files can change are made after the handshake, so that a resumed session passes them, too.
//! - A certificate and its key are read again when connections come ([`files`]). A file that is no certificate is
//!   logged, and the one before stays in use.
//! - A handshake has a time limit, and takes no memory but its own.
//!
//! Deliberately absent: TLS 1.0 and 1.1; suites without forward secrecy; early data, which can be replayed; OCSP; keys
//! with a passphrase. The cryptography is that of aws-lc-rs, for the reasons in docs/decisions/0013-tls.md.

mod accept;
mod certificate;
mod connect;
mod der;
mod files;
mod san;
mod self_signed;
mod settings;
mod suites;
mod verify;
mod words;

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use accept::Acceptor;
pub use connect::Connector;
pub use settings::{PairPaths, ProtocolSettings, Settings};

/// A TLS connection over a byte stream.
pub type Stream<S> = tokio_rustls::TlsStream<S>;

/// The kind of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Client,
    Peer,
}

/// Whether a connection begins as one of TLS does: with the type of a record that belongs to a handshake.
pub fn begins_with(byte: u8) -> bool {
    byte == 0x16
}

impl Settings {
    /// Makes a pair of this member's own, if the flags ask for one and name none. To be called before the settings are
    /// used; the pair is kept in `directory`, and names `hosts`.
    ///
    /// # Errors
    /// The validity is no time, or the files cannot be written.
    pub fn complete(&mut self, directory: &Path, hosts: &[String]) -> Result<(), String> {
        if self.auto && !self.has_files() {
            self_signed::use_own(self, directory, hosts)?;
        } else {
            self.auto = false;
        }
        Ok(())
    }

    /// Whether members make their own certificates. Then none can check another one's.
    fn signs_itself(&self) -> bool {
        self.auto
    }
}

/// The cryptography, with the suites that the flags allow.
fn provider(settings: &Settings) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: settings.protocol.suites.clone(), ..aws_lc_rs::default_provider() })
}

/// The CAs that are trusted: those that the flags name, or else those of the system.
fn roots(settings: &Settings) -> Result<RootCertStore, String> {
    if let Some(path) = &settings.trusted_ca_file {
        return files::read_roots(path);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(roots)
}

#[cfg(test)]
mod tests;
