//! URLs as etcd takes them: the rules of Go's parser (`net/url`) and of `types.NewURLs` around it. The WHATWG rules of
//! browsers are others. A URL in an entry of the log is read by every member, so it must satisfy these rules even if
//! no member of MetaStore would ever dial it.

use core::net::Ipv6Addr;

use Part::{Host, Plain, Zone};

/// The parts of a URL that etcd takes. None of them is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtcdUrl<'a> {
    /// `http`, `https`, `unix` or `unixs`, in any case.
    pub scheme: &'a str,
    /// The text before the `@`.
    pub user: Option<&'a str>,
    /// An IPv6 address has brackets. The host of a `unix` URL has its port, if there is one.
    pub host: &'a str,
    /// Any number of digits; empty for a `unix` URL.
    pub port: &'a str,
    /// Empty for an `http` URL.
    pub path: &'a str,
}

/// The part of a URL: it decides which bytes may stand there, and which a `%` may stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A user, a path or a fragment.
    Plain,
    Host,
    /// The zone of an IPv6 address, from its `%25` on.
    Zone,
}

impl<'a> EtcdUrl<'a> {
    /// Takes a URL apart. White space around it is ignored.
    ///
    /// # Errors
    /// Why etcd refuses the URL.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let text = text.trim();
        let because = |why: &str| format!("{why}: {text:?}");
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        if rest.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(because("URL must not contain control characters"));
        }
        let (scheme, rest) = rest.split_once(':').unwrap_or_default();
        let is = |name: &&str| scheme.eq_ignore_ascii_case(name);
        let http = ["http", "https"].iter().any(is);
        if !http && !["unix", "unixs"].iter().any(is) {
            return Err(because("URL scheme must be http, https, unix, or unixs"));
        }
        let rest = rest.split_once('?').map_or(rest, |(rest, _query)| rest);
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            // Text that does not begin with a slash is neither a host nor a path for Go.
            None => ("", if rest.starts_with('/') { rest } else { "" }),
        };
        let (user, address) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let user_is_valid = user.unwrap_or_default().bytes().all(|b| b.is_ascii_alphanumeric() || USER.contains(&b));
        if !user_is_valid || ![user.unwrap_or_default(), path, fragment].iter().all(|part| valid(part, Plain)) {
            return Err(because("URL has an invalid character or escape"));
        }
        let (host, port) = split_address(address, http).ok_or_else(|| because("URL host is invalid"))?;
        if !http {
            return Ok(Self { scheme, user, host: address, port: "", path });
        }
        // A port may be empty, but its colon must be there. Brackets are fine around an address only.
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let bracket = ["[", "]", "%5b", "%5B", "%5d", "%5D"].iter().any(|bracket| inside.contains(bracket));
        let port = port.filter(|_| !bracket);
        let port = port.ok_or_else(|| format!("URL address does not have the form \"host:port\": {text:?}"))?;
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text:?} (remove {path:?})"));
        }
        Ok(Self { scheme, user, host, port, path })
    }
}

/// The bytes besides letters and digits that a user may have.
const USER: &[u8] = b"-._:~!$&'()*+,;=%@";
/// The bytes besides letters and digits that a host may have.
const HOST: &[u8] = b"-._~!$&'()*+,;=:[]<>\"";

/// The host and, after a colon, the port.
fn split_address(address: &str, http: bool) -> Option<(&str, Option<&str>)> {
    if !address.contains('[') {
        // Only the schemes of HTTP are strict with a second colon.
        let colon = if http { address.find(':') } else { address.rfind(':') };
        let (host, port) = address.split_at(colon.unwrap_or(address.len()));
        return Some((host, port_after(port)?)).filter(|_| valid(host, Host));
    }
    let (host, port) = address.split_at(address.rfind(']')? + 1);
    let inside = host.strip_prefix('[')?.strip_suffix(']')?;
    let (ip, zone) = inside.split_at(inside.find("%25").unwrap_or(inside.len()));
    let good = !inside.contains('[') && ip.parse::<Ipv6Addr>().is_ok() && zone != "%25" && valid(zone, Zone);
    Some((host, port_after(port)?)).filter(|_| good)
}

fn port_after(text: &str) -> Option<Option<&str>> {
    if text.is_empty() {
        return Some(None);
    }
    text.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit())).map(Some)
}

/// Whether a part has only bytes and escapes that may stand there.
fn valid(text: &str, part: Part) -> bool {
    let may_stand_in_host = |byte: u8| byte.is_ascii_alphanumeric() || HOST.contains(&byte);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            if part != Plain && byte.is_ascii() && !may_stand_in_host(byte) {
                return false;
            }
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else { return false };
        let escaped = (high * 16 + low) as u8;
        let fine = match part {
            Plain => true,
            Host => !escaped.is_ascii() || escaped == b'%',
            Zone => matches!(escaped, b'%' | b' ') || may_stand_in_host(escaped),
        };
        if !fine {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    // Each of these was given to `types.NewURLs` of etcd 3.7.3, built with Go 1.26.

    #[rustfmt::skip]
    const TAKEN: &[&str] = &[
        "http://127.0.0.1:1", " http://a:1 ", "HTTP://a:1", "http://:1", "http://a:", "http://a:99999",
        "http://a:1?x", "http://a:1?%zz", "http://a:1#x", "http://a:1?", "http://a:1#", "https://a:1", "http://é:1",
        "http://%C3%A9:1", "http://a%25b:1", r#"http://a"<>b:1"#, "http://u@a:1", "http://u:p@q@a:1",
        "http://u:%41@a:1", "http://[::1]:1", "http://[::ffff:1.2.3.4]:1", "http://[fe80::1%25en0]:1",
        "http://[fe80::1%25a%20b]:1", "unix://", "unix:a", "unix:/a", "unix://a:1", "unix://a:b:1", "unix://a]",
        "unix:///a b%20c", "unix://[::1]", "unix://[::1%25a%5D]", "unixs://a:1", "http://a:1", "http://a:1\n",
        "http://a:1#\x01",
    ];

    #[rustfmt::skip]
    const REFUSED: &[&str] = &[
        "http://a:1/", "http://a:1/x", "http://a", "http://", "http:///", "http:a:1", "http:/a:1", "//a:1", "a:1",
        "ftp://a:1", "http://a:x", "http://a:+1", "http://a:-1", "http://a:1:2", "http://::1:1", "http://a b:1",
        "http://a\\b:1", "http://a^b:1", "http://a`b:1", "http://a{b:1", "http://a|b:1", "http://a%zz:1",
        "http://a%20b:1", "http://a%:1", "http://a%4", "http://a]:1", "http://[::1:1", "http://[::1]",
        "http://[::1]x:1", "http://a[::1]:1", "http://[[::1]]:1", "http://[]:1", "http://[a]:1", "http://[1.2.3.4]:1",
        "http://[1::2::3]:1", "http://[12345::]:1", "http://[::ffff:01.2.3.4]:1", "http://[fe80::1%en0]:1",
        "http://[fe80::1%25]:1", "http://[fe80::1%25a^]:1", "http://[fe80::1%25%0a]:1", "http://[fe80::1%25%5D]:1",
        "http://[fe80::1%25%C3%A9]:1", "http://u:%zz@a:1", "http://u v@a:1", "http://[@a:1", "http://a:1#%zz",
        "unix://a:x", "unix:///%zz", "unix://a b", "unix://[::1", "", "http://a\0b:1", "http://a:1\x7f",
        "http://a:1?\n?", "unix:///a\tb",
    ];

    #[test]
    fn urls_are_taken_and_refused_as_by_etcd() {
        for text in TAKEN {
            assert!(EtcdUrl::parse(text).is_ok(), "{text:?}");
        }
        for text in REFUSED {
            assert!(EtcdUrl::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_url_has_parts() {
        let parts =
            |text| EtcdUrl::parse(text).map(|url| (url.scheme, url.user, url.host, url.port, url.path)).unwrap();
        assert_eq!(parts("HTTP://u:p@q@[::1]:2?x#y"), ("HTTP", Some("u:p@q"), "[::1]", "2", ""));
        assert_eq!(parts("unix://a:1/b?x"), ("unix", None, "a:1", "", "/b"));
    }
}
