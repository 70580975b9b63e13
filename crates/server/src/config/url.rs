//! The URLs in flags: to listen on, and to advertise.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

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
    Unix,
}

/// A list of URLs as flags carry it. Errors name the flag and the URL.
pub fn parse_list(flag: &str, text: &str) -> Result<Vec<Url>, String> {
    text.split(',').map(|url| parse(url.trim()).map_err(|error| format!("--{flag}: {error}"))).collect()
}

/// One URL: `http://host:port` or `unix://path`, nothing after it.
pub fn parse(text: &str) -> Result<Url, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("unix", rest)) => (Scheme::Unix, rest),
        Some(("https" | "unixs", _)) => {
            return Err(format!("{text:?} asks for TLS, which is not available yet; use http:// or unix://"));
        }
        _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
    };
    if scheme == Scheme::Unix {
        if rest.is_empty() {
            return Err(format!("unix URL without a path: {text}"));
        }
        return Ok(Url { text: text.to_owned(), host: rest.to_owned(), port: None, scheme });
    }
    if let Some(path) = rest.find(['/', '?', '#']) {
        return Err(format!("URL must not contain a path: {text} (remove {:?})", &rest[path..]));
    }
    let missing = || format!("URL address does not have the form \"host:port\": {text}");
    let (host, port) = rest.rsplit_once(':').ok_or_else(missing)?;
    let port = port.parse().map_err(|_| missing())?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok(Url { text: text.to_owned(), host: host.to_owned(), port: Some(port), scheme })
}

impl Url {
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
        assert_eq!(bind("unix://localhost:m1"), Ok(Address::Unix("localhost:m1".into())));
        assert_eq!(bind("http://example.com:1").unwrap_err(), "expected IP in URL for binding (http://example.com:1)");
        assert_eq!(bind("http://:1").unwrap_err(), "expected IP in URL for binding (http://:1)");
    }

    #[test]
    fn what_is_no_url_is_named() {
        assert!(parse("127.0.0.1:2379").unwrap_err().starts_with("URL scheme must be http, https, unix, or unixs"));
        assert!(parse("http://a").unwrap_err().contains("host:port"));
        assert!(parse("http://a:99999").unwrap_err().contains("host:port"));
        assert!(parse("http://a:1/x").unwrap_err().contains("must not contain a path"));
        assert!(parse("https://a:1").unwrap_err().contains("TLS"));
        assert!(parse_list("listen-peer-urls", "http://a:1,x").unwrap_err().starts_with("--listen-peer-urls: "));
    }
}
