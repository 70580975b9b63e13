//! Cipher suites by the names of Go, which are those of IANA.

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs as provider;

/// All suites of the library. Go, too, has no others in TLS 1.3; for TLS 1.2, it has more: those without forward
/// secrecy, and those in CBC mode.
pub(super) fn all() -> Vec<SupportedCipherSuite> {
    provider::ALL_CIPHER_SUITES.to_vec()
}

/// The suites of these names. The suites of TLS 1.3 are always among them, because Go lets nobody choose them. No name
/// at all means all suites.
pub(super) fn choose(names: &[String]) -> Result<Vec<SupportedCipherSuite>, String> {
    if names.is_empty() {
        return Ok(all());
    }
    let mut chosen: Vec<_> = all().into_iter().filter(|suite| is_new(*suite)).collect();
    for given in names {
        // Names that Go had before these suites were standardised.
        let name = match given.as_str() {
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            name => name,
        };
        let Some(suite) = all().into_iter().find(|suite| self::name(*suite) == name) else {
            let supported: Vec<_> = all().into_iter().map(self::name).collect();
            return Err(format!("unexpected TLS cipher suite {given:?} (supported: {})", supported.join(", ")));
        };
        if !chosen.contains(&suite) {
            chosen.push(suite);
        }
    }
    Ok(chosen)
}

fn is_new(suite: SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

fn name(suite: SupportedCipherSuite) -> String {
    let name = format!("{:?}", suite.suite());
    name.strip_prefix("TLS13_").map_or(name.clone(), |rest| format!("TLS_{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_etcd() {
        let names = |given: &[&str]| {
            let given: Vec<_> = given.iter().map(ToString::to_string).collect();
            choose(&given).map(|suites| suites.into_iter().map(name).collect::<Vec<_>>())
        };
        let new = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"];
        assert_eq!(names(&["TLS_AES_128_GCM_SHA256"]).unwrap(), new);
        let chosen = names(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]);
        let old = ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"];
        assert_eq!(chosen.unwrap(), [&new[..], &old].concat());
        let error = names(&["TLS_RSA_WITH_AES_128_CBC_SHA"]).unwrap_err();
        assert!(error.starts_with("unexpected TLS cipher suite \"TLS_RSA_WITH_AES_128_CBC_SHA\" (supported: TLS_AES_"));
        assert!(error.contains("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"), "{error}");
    }
}
