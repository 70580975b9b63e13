//! The URLs in flags: to listen on, and to advertise.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use metastore_store::EtcdUrl;

use crate::io::listen::Address;

/// A URL as it was given, and where it points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub text: String,
    pub host: String,
    pub port: Option<u16>,
    pub scheme: Scheme,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl Scheme {
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }
}

/// A list of URLs as flags carry it. Errors name the flag and the URL.
pub fn parse_list(flag: &str, text: &str) -> Result<Vec<Url>, String> {
    text.split(',').map(|url| parse(url.trim()).map_err(|error| format!("--{flag}: {error}"))).collect()
}

/// One URL, `http://host:port` or `unix://path`, or the same with TLS: `https`, `unixs`. It is refused if etcd
/// refuses it, and if this member could not use it as etcd would.
pub fn parse(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let EtcdUrl { scheme, user, host, port, path } = EtcdUrl::parse(text)?;
    let rest = &text[scheme.len()..];
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "unix" => Scheme::Unix,
        _ => Scheme::Unixs,
    };
    let recorded = format!("{}{rest}", scheme.name());
    if user.is_some() {
        return Err(format!("URL must not name a user: {text:?}"));
    }
    if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
        return match format!("{host}{path}") {
            path if path.is_empty() => Err(format!("unix URL without a path: {text:?}")),
            path if path.contains('%') => Err(format!("unix URL with an escape in its path: {text:?}")),
            host => Ok(Url { text: recorded, host, port: None, scheme }),
        };
    }
    // etcd records other characters as escapes, and would make another member id of the URL.
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || host.replace("%25", "").contains('%') {
        return Err(format!("URL must have no characters outside ASCII, and no escapes in its host: {text:?}"));
    }
    let port = port.parse().map_err(|_| format!("URL port must be a number from 0 to 65535: {text:?}"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // The escape of a percent sign comes before the zone of an IPv6 address.
    Ok(Url { text: recorded, host: host.replacen("%25", "%", 1), port: Some(port), scheme })
}

impl Url {
    /// The name that the certificate of the server must have. The path of a Unix socket may begin with one.
    pub fn server_name(&self) -> &str {
        match self.port {
            Some(_) => &self.host,
            None => self.host.split(['/', ':']).next().filter(|name| !name.is_empty()).unwrap_or("localhost"),
        }
    }

    /// The address to bind. Only addresses and `localhost` can be bound; a name could stand for several addresses.
    pub fn bind_address(&self) -> Result<Address, String> {
        let Some(port) = self.port else { return Ok(Address::Unix(PathBuf::from(&self.host))) };
        let ip = match self.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().map_err(|_| format!("expected IP in URL for binding ({})", self.text))?,
        };
        Ok(Address::Tcp(SocketAddr::new(ip, port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let bind = |text| parse(text).unwrap().bind_address();
        assert_eq!(bind("http://localhost:2379"), Ok(Address::Tcp("127.0.0.1:2379".parse().unwrap())));
        assert_eq!(bind("http://[::1]:0"), Ok(Address::Tcp("[::1]:0".parse().unwrap())));
        assert_eq!(bind("unix://localhost:1"), Ok(Address::Unix("localhost:1".into())));
        assert_eq!(bind("http://example.com:1").unwrap_err(), "expected IP in URL for binding (http://example.com:1)");
        assert_eq!(bind("http://:1").unwrap_err(), "expected IP in URL for binding (http://:1)");
    }

    #[test]
    fn the_text_is_the_one_that_etcd_records() {
        let text = |text| parse(text).map(|url| url.text).ok();
        assert_eq!(text(" HTTP://a:1?x#y "), Some("http://a:1?x#y".into()));
        assert_eq!(text("Unix:/a/b"), Some("unix:/a/b".into()));
        for other in ["http://é:1", "http://%C3%A9:1", "http://a:1?é", "http://u@a:1", "unix:///a%20b", "unix:a"] {
            assert_eq!(text(other), None, "{other}");
        }
        assert_eq!(text("HTTPS://a:1"), Some("https://a:1".into()));
        assert_eq!(text("unixs://a"), Some("unixs://a".into()));
        for not_dialed in ["http://a:", "http://a:65536", "unix://"] {
            assert!(EtcdUrl::parse(not_dialed).is_ok() && parse(not_dialed).is_err(), "{not_dialed}");
        }
        assert_eq!(parse("http://[fe80::1%25en0]:1").unwrap().host, "fe80::1%en0");
        assert_eq!(parse("unix://a/b?x").unwrap().host, "a/b");
    }

    #[test]
    fn what_is_no_url_is_named() {
        assert!(parse("127.0.0.1:2379").unwrap_err().starts_with("URL scheme must be http, https, unix, or unixs"));
        assert!(parse("http://a").unwrap_err().contains("host:port"));
        assert!(parse("http://a:99999").unwrap_err().contains("port must be a number"));
        assert!(parse("http://a:1/x").unwrap_err().contains("must not contain a path"));
        assert!(parse_list("listen-peer-urls", "http://a:1,x").unwrap_err().starts_with("--listen-peer-urls: "));
    }
}
