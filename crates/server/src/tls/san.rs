//! Whether a certificate belongs to the address from which its owner has connected.
//!
//! Members check each other so, as in etcd. A certificate with addresses must name this one, or have DNS names as well.
//! One of the DNS names must resolve to the address, or the address must resolve to one of them. A certificate with
//! neither belongs everywhere.

use std::net::IpAddr;

use super::certificate::Certificate;

/// Refuses a certificate that belongs to other addresses, in the words of etcd.
pub(super) async fn check(certificate: &Certificate, remote: IpAddr) -> Result<(), String> {
    let remote = remote.to_canonical();
    let Certificate { ip_addresses, dns_names, .. } = certificate;
    if ip_addresses.iter().any(|address| address.to_canonical() == remote) {
        return Ok(());
    }
    if dns_names.is_empty() {
        if ip_addresses.is_empty() {
            return Ok(());
        }
        let known: Vec<_> = ip_addresses.iter().map(IpAddr::to_string).collect();
        return Err(format!("x509: certificate is valid for {}, not {remote}", known.join(", ")));
    }
    let mut why = String::new();
    for name in dns_names.iter().filter(|name| !name.starts_with("*.")) {
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(mut found) => {
                if found.any(|found| found.ip().to_canonical() == remote) {
                    return Ok(());
                }
            }
            Err(error) => why = format!(" (lookup {name}: {error})"),
        }
    }
    let found = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&remote)).await;
    if let Ok(Ok(found)) = found
        && dns_names.iter().any(|name| names(name, found.trim_end_matches('.')))
    {
        return Ok(());
    }
    Err(format!("tls: \"{remote}\" does not match any of DNSNames {dns_names:?}{why}"))
}

/// Whether a DNS name of a certificate names the host. A wildcard stands for any number of labels, as in etcd.
fn names(name: &str, host: &str) -> bool {
    match name.strip_prefix('*') {
        Some(end) if end.starts_with('.') => host.ends_with(end),
        _ => name == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn belongs(addresses: &[&str], names: &[&str], remote: &str) -> Result<(), String> {
        let certificate = Certificate {
            ip_addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            dns_names: names.iter().map(ToString::to_string).collect(),
            ..Certificate::default()
        };
        check(&certificate, remote.parse().unwrap()).await
    }

    #[tokio::test]
    async fn one_name_or_address_that_fits_is_enough() {
        for (addresses, names) in [
            (&[][..], &[][..]),
            (&["127.0.0.1"], &[]),
            (&["10.0.0.1"], &["localhost"]),
            (&["10.0.0.1", "127.0.0.1"], &["no-such-name.invalid"]),
            (&[], &["no-such-name.invalid", "localhost"]),
        ] {
            assert_eq!(belongs(addresses, names, "127.0.0.1").await, Ok(()), "{addresses:?} {names:?}");
        }
        assert_eq!(belongs(&["127.0.0.1"], &[], "::ffff:127.0.0.1").await, Ok(()));
    }

    #[tokio::test]
    async fn refusals_have_the_texts_of_etcd() {
        let error = belongs(&["10.0.0.1"], &[], "127.0.0.1").await.unwrap_err();
        assert_eq!(error, "x509: certificate is valid for 10.0.0.1, not 127.0.0.1");
        let error = belongs(&["10.0.0.1"], &["no-such-name.invalid"], "127.0.0.1").await.unwrap_err();
        let text = "tls: \"127.0.0.1\" does not match any of DNSNames [\"no-such-name.invalid\"] (lookup no-such-name";
        assert!(error.starts_with(text), "{error}");
    }

    #[test]
    fn a_wildcard_stands_for_what_comes_before_its_dot() {
        assert!(names("*.etcd.example", "m1.etcd.example") && names("*.etcd.example", "a.b.etcd.example"));
        assert!(!names("*.etcd.example", "etcd.example") && !names("*etcd.example", "xetcd.example"));
        assert!(names("m1", "m1") && !names("m1", "m2"));
    }
}
