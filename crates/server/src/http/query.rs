//! The options of a request, behind the question mark of its path.

use http::Request;

/// The values of an option, in their order; without a value it is empty. Escapes are left as they are: no option of
/// these paths has a value that needs one.
pub(super) fn values<'a, B>(request: &'a Request<B>, key: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(move |(name, _)| *name == key).map(|(_, value)| value)
}

/// Whether an option is there, with any value.
pub(super) fn has<B>(request: &Request<B>, key: &str) -> bool {
    values(request, key).next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_come_again_and_without_a_value() {
        let request = Request::builder().uri("/x?a=1&&b&a=2&a&c=").body(()).unwrap();
        assert_eq!(values(&request, "a").collect::<Vec<_>>(), ["1", "2", ""]);
        assert_eq!(["b", "c", "d", ""].map(|key| has(&request, key)), [true, true, false, false]);
        assert!(!has(&Request::builder().uri("/x").body(()).unwrap(), "a"));
    }
}
