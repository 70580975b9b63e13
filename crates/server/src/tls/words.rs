//! Errors of handshakes in the words of Go, which operators of etcd search for.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::verify::NotAllowed;

/// The text of an error that ended a handshake.
pub(super) fn words(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => error.to_string(),
    }
}

fn tls(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".into(),
        Error::InvalidCertificate(CertificateError::Other(other)) if other.0.is::<NotAllowed>() => other.to_string(),
        Error::InvalidCertificate(why) => format!("tls: failed to verify certificate: x509: {}", certificate(why)),
        Error::InvalidMessage(_) => "tls: first record does not look like a TLS handshake".into(),
        Error::AlertReceived(alert) => format!("remote error: tls: {}", self::alert(*alert)),
        Error::NoApplicationProtocol => "tls: client requested unsupported application protocols".into(),
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => "tls: client offered only unsupported versions".into(),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "tls: no cipher suite supported by both client and server".into()
        }
        error => format!("tls: {error}"),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        // An authority of this name is trusted, but has not signed it: to Go, another authority.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage".into()
        }
        CertificateError::Expired | CertificateError::NotValidYet => EXPIRED.into(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("{EXPIRED}: current time {} is after {}", time.as_secs(), not_after.as_secs())
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("{EXPIRED}: current time {} is before {}", time.as_secs(), not_before.as_secs())
        }
        error => error.to_string(),
    }
}

pub(super) const EXPIRED: &str = "certificate has expired or is not yet valid";

fn alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnexpectedMessage => "unexpected message".into(),
        AlertDescription::BadRecordMac => "bad record MAC".into(),
        AlertDescription::HandshakeFailure => "handshake failure".into(),
        AlertDescription::BadCertificate => "bad certificate".into(),
        AlertDescription::UnsupportedCertificate => "unsupported certificate".into(),
        AlertDescription::CertificateRevoked => "revoked certificate".into(),
        AlertDescription::CertificateExpired => "expired certificate".into(),
        AlertDescription::CertificateUnknown => "unknown certificate".into(),
        AlertDescription::UnknownCA => "unknown certificate authority".into(),
        AlertDescription::AccessDenied => "access denied".into(),
        AlertDescription::DecodeError => "error decoding message".into(),
        AlertDescription::DecryptError => "error decrypting message".into(),
        AlertDescription::ProtocolVersion => "protocol version not supported".into(),
        AlertDescription::InternalError => "internal error".into(),
        AlertDescription::CertificateRequired => "certificate required".into(),
        AlertDescription::NoApplicationProtocol => "no application protocol".into(),
        other => format!("{other:?}"),
    }
}
